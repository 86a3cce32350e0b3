"""One run of the worker process: started, spoken to, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path

from proxy.embedding import frames
from proxy.embedding.frames import Cancel, Embed, Failed, Kind, Refused, Start, Vectors
from proxy.errors import ConfigInvalid, Unavailable

log = logging.getLogger(__name__)

_STOP_S = 5.0
_READ_BYTES = 1 << 20


class WorkerLink:
    """A worker whose models are loaded."""

    def __init__(self, process: Process, dims: Mapping[str, int]) -> None:
        self._process = process
        self._dims = dict(dims)

    @property
    def dims(self) -> Mapping[str, int]:
        """Return the dimension by model."""
        return self._dims

    @property
    def pid(self) -> int:
        """Return the worker's process id."""
        return self._process.pid

    def send(self, embed: Embed) -> None:
        """Send texts; what is in the pipe is bounded by what the caller has outstanding."""
        self._write(frames.encode(Kind.EMBED, embed))

    def cancel(self, cancel: Cancel) -> None:
        """Tell of texts that nobody waits for any more; each is answered all the same."""
        self._write(frames.encode(Kind.CANCEL, cancel))

    def _write(self, frame: bytes) -> None:
        pipe = self._process.stdin
        # A pipe that is closing belongs to a dead worker; `receive` says so.
        if pipe is not None and not pipe.is_closing():
            pipe.write(frame)

    async def receive(self) -> Vectors | Refused:
        """Return the next answer.

        Raises:
            Unavailable: the worker is gone, or said something that is no answer.
        """
        kind, body = await _read(self._process)
        try:
            if kind is Kind.VECTORS:
                return frames.decode_vectors(body)
            if kind is Kind.REFUSED:
                return Refused(**frames.decode(body))
        except (ValueError, TypeError) as error:
            raise _gone(f"The embedding worker's answer is broken: {error}.") from error
        raise _gone(f"The embedding worker answered with an unexpected {kind.name}.")

    def kill(self) -> None:
        """End the worker at once."""
        _kill(self._process)

    async def stop(self) -> None:
        """End the worker and wait until it is gone."""
        await _stop(self._process)


async def start_worker(start: Start, *, timeout_s: float) -> WorkerLink:
    """Start a worker and wait until its models are loaded.

    Raises:
        ConfigInvalid: a model cannot be loaded; it is named, with what to do.
        Unavailable: the worker died or was not ready within `timeout_s`.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "proxy.embedding.worker"),
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,  # a Ctrl-C at the terminal is for the proxy
        env=_environment(start.lane_threads),
        limit=_READ_BYTES,
    )
    try:
        async with asyncio.timeout(timeout_s):
            dims = await _ready(process, start)
    except TimeoutError as error:
        await _stop(process)
        raise _gone(
            f"The embedding models were not loaded within {timeout_s:g} s.",
            hint="Raise embedder.start_timeout_s if the machine is slow.",
        ) from error
    except BaseException:
        await _stop(process)
        raise
    return WorkerLink(process, dims)


async def _ready(process: Process, start: Start) -> dict[str, int]:
    if process.stdin is not None:
        process.stdin.write(frames.encode(Kind.START, start))
    kind, body = await _read(process)
    if kind is Kind.FAILED:
        failed = Failed(**frames.decode(body))
        raise ConfigInvalid(
            f"The embedding model {failed.model!r} cannot be loaded: {failed.message}"
            f" {failed.hint}".rstrip(),
            (),
        )
    if kind is not Kind.READY:
        raise _gone(f"The embedding worker began with an unexpected {kind.name}.")
    return {model: int(dim) for model, dim in frames.decode(body).items()}


async def _read(process: Process) -> tuple[Kind, bytes]:
    source = process.stdout
    if source is None:
        raise _gone("The embedding worker has no output.")
    try:
        (length,) = frames.LENGTH.unpack(await source.readexactly(frames.LENGTH.size))
        if not 1 <= length <= frames.FRAME_BYTES_MAX:
            raise _gone(f"The embedding worker sent a frame of {length} bytes.")
        data = await source.readexactly(length)
        return Kind(data[0]), data[1:]
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise _gone("The embedding worker ended.") from error
    except ValueError as error:
        raise _gone(f"The embedding worker sent an unknown frame: {error}.") from error


def _environment(lane_threads: int) -> dict[str, str]:
    """Return the worker's environment: nothing is fetched, memory stays small, no banners."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(lane_threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "MALLOC_ARENA_MAX": "2",
        # What a chunk has used goes back to the system, and few shapes are kept prepared: 30 MB
        # less at the peak, at the same speed.
        "MALLOC_MMAP_THRESHOLD_": str(2**22),
        "MALLOC_TRIM_THRESHOLD_": str(2**22),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16",
    }


def _kill(process: Process) -> None:
    if process.returncode is None:
        try:
            process.kill()
        except ProcessLookupError:
            return


async def _stop(process: Process) -> None:
    _kill(process)
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        # It was told to; the kernel ends it when it comes back from where it waits.
        log.warning("The embedding worker %d does not end within %g s", process.pid, _STOP_S)
    if process.stdin is not None:
        process.stdin.close()


def _gone(message: str, *, hint: str = "Try again: it is started anew.") -> Unavailable:
    return Unavailable(message, where="embedder", hint=hint)
