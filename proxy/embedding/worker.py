"""The worker process: `python -m proxy.embedding.worker`, frames in by stdin and out by stdout.

It ends when stdin does, at once and whatever it is doing: the proxy's end closes its pipe even
when it is killed, so no worker outlives its proxy.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import BinaryIO, Protocol

from proxy.embedding import frames
from proxy.embedding.chunks import Piece, Pieces
from proxy.embedding.frames import Cancel, Embed, Failed, Kind, Refused, Start
from proxy.embedding.locate import hint_for, need_model


class _Encoder(Protocol):
    dim: int
    characters_max: int

    def encode(self, texts: list[str], *, urgent: bool) -> bytes: ...


class Worker:
    """Computes chunks of texts on a few lanes (threads) and writes each as soon as it is done.

    Lanes with a thread each do more than one computation spread over all threads: no barrier
    between them makes one wait for the slowest, which tells most where the CPUs are shared.
    """

    def __init__(self, encoders: Mapping[str, _Encoder], output: BinaryIO) -> None:
        self._encoders = encoders
        self._output = output
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._pieces = Pieces(
            clipped={model: encoder.characters_max for model, encoder in encoders.items()}
        )

    def add(self, embed: Embed) -> None:
        """Let texts wait for a lane."""
        pieces = [
            Piece(text_id=text_id, model=embed.model, urgent=embed.urgent, text=text)
            for text_id, text in zip(embed.ids, embed.texts, strict=True)
        ]
        with self._changed:
            self._pieces.add(pieces)
            self._changed.notify_all()

    def cancel(self, cancel: Cancel) -> None:
        """Refuse those of the texts that no lane has begun; nobody waits for them."""
        with self._changed:
            removed = self._pieces.remove(cancel.ids)
        if removed:
            refused = Refused(ids=removed, message="nobody waits for it", text=False)
            self.write(frames.encode(Kind.REFUSED, refused))

    def run_lane(self) -> None:
        """Compute chunks, for ever."""
        while True:
            with self._changed:
                while not len(self._pieces):
                    self._changed.wait()
                chunk = self._pieces.take()
            self._compute(chunk)

    def write(self, frame: bytes) -> None:
        """Write a frame whole."""
        with self._writing:
            self._output.write(frame)
            self._output.flush()

    def _compute(self, chunk: list[Piece]) -> None:
        ids = [piece.text_id for piece in chunk]
        encoder = self._encoders[chunk[0].model]
        try:
            packed = encoder.encode([piece.text for piece in chunk], urgent=chunk[0].urgent)
        except Exception as error:  # noqa: BLE001 - told to those who wait for these texts
            if len(chunk) > 1:
                # One text must not fail its neighbours.
                for piece in chunk:
                    self._compute([piece])
                return
            refused = Refused(
                ids=ids,
                message=f"{type(error).__name__}: {error}",
                # What the machine lacks may be there the next time; all else lies in the text.
                text=not isinstance(error, (MemoryError, RuntimeError, OSError)),
            )
            self.write(frames.encode(Kind.REFUSED, refused))
            return
        self.write(frames.encode_vectors(ids, encoder.dim, packed))


def main() -> None:
    """Serve the process that started this one, until its pipe closes.

    A signal meant for the whole group (Ctrl-C, a service manager's stop) leaves the worker alone:
    the proxy still finishes the requests it has, and closes the pipe when it is done.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    source, output = _own_pipes()
    kind, body = _read(source)
    if kind is not Kind.START:
        raise SystemExit(f"the first frame must be START, not {kind.name}")
    start = Start(**frames.decode(body))
    serving = _Serving(source)
    threading.Thread(target=serving.read, name="frames", daemon=True).start()
    encoders = _load(start, output)
    if encoders is None:
        return
    worker = Worker(encoders, output)
    from proxy.embedding.encoder import use_threads

    def lane() -> None:
        use_threads(start.lane_threads)
        worker.run_lane()

    for lane_number in range(start.lanes):
        threading.Thread(target=lane, name=f"lane-{lane_number}", daemon=True).start()
    dims = {model: encoder.dim for model, encoder in encoders.items()}
    worker.write(frames.encode(Kind.READY, dims))
    serving.serve(worker)


class _Serving:
    """Reads frames from before the models are loaded, so that the end of the pipe is seen."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._worker: Worker | None = None
        self._ready = threading.Event()

    def read(self) -> None:
        """Hand frames to the worker until the pipe ends; then the process ends."""
        try:
            while True:
                kind, body = _read(self._source)
                self._ready.wait()
                if self._worker is not None and kind is Kind.EMBED:
                    self._worker.add(Embed(**frames.decode(body)))
                if self._worker is not None and kind is Kind.CANCEL:
                    self._worker.cancel(Cancel(**frames.decode(body)))
        except EOFError:
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a broken pipe or frame ends the process
            print(f"embedding worker: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)

    def serve(self, worker: Worker) -> None:
        """Let the frames through; returns never."""
        self._worker = worker
        self._ready.set()
        threading.Event().wait()


def _load(start: Start, output: BinaryIO) -> dict[str, _Encoder] | None:
    encoders: dict[str, _Encoder] = {}
    by_location: dict[str, _Encoder] = {}
    for model, location in start.locations.items():
        try:
            need_model(location)
            from proxy.embedding.encoder import load

            # Two names of one model share its memory.
            if location not in by_location:
                by_location[location] = load(start, model)
            encoders[model] = by_location[location]
        except Exception as error:  # noqa: BLE001 - any library error is told to the proxy
            message = str(error).strip().split("\n")[0] or type(error).__name__
            failed = Failed(model=model, message=message, hint=hint_for(model))
            output.write(frames.encode(Kind.FAILED, failed))
            output.flush()
            return None
    return encoders


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return stdin and stdout for frames alone: what a library prints goes to stderr."""
    source = os.fdopen(os.dup(0), "rb")
    output = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, output


def _read(source: BinaryIO) -> tuple[Kind, bytes]:
    (length,) = frames.LENGTH.unpack(_exactly(source, frames.LENGTH.size))
    if not 1 <= length <= frames.FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {length} bytes")
    data = _exactly(source, length)
    return Kind(data[0]), data[1:]


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return data


if __name__ == "__main__":
    main()
