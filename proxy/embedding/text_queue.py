"""The texts that wait for the worker: bounded, fair between callers, searches first (pure)."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.embedding.frames import Embed
from proxy.embedding.suspects import Suspects
from proxy.errors import CrossfadeError, Reason, Rejected

CHARACTERS_MAX = 4_000_000
"""Characters in one frame to the worker, but for a single longer text."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One text of one model; callers with equal texts share it."""

    text_id: int
    model: str
    text: str
    urgent: bool
    sent: bool = False
    vector: bytes | None = None
    error: CrossfadeError | None = None
    calls: list[Call] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """One caller's texts.

    Attributes:
        on_done: called once, when every text has its vector or one has failed.
    """

    on_done: Callable[[], None]
    entries: list[_Entry] = field(default_factory=list)
    unsent: deque[_Entry] = field(default_factory=deque)
    missing: int = 0
    done: bool = False

    def vectors(self) -> list[bytes]:
        """Return the vectors in the order of the texts; raises the error of one that has none."""
        found: list[bytes] = []
        for entry in self.entries:
            if entry.error is not None:
                raise entry.error
            if entry.vector is None:
                raise RuntimeError("a call was read before it was done")
            found.append(entry.vector)
        return found


class TextQueue:
    """Texts by caller. `take` goes round the callers, a text of each in turn.

    So a backfill with a thousand texts delays a single insert by one batch, not by a thousand
    texts. A text that is already waiting or being computed is not taken twice. Each model has its
    own bounds, so that a slow one takes nothing from another. A text over which the worker may have
    died has it for itself: it waits until the worker has nothing else, and everything waits for it.

    Args:
        texts_max: texts of a model that may wait, documents and searches each.
        window: texts of a model that the worker may have, documents and searches each.
    """

    def __init__(self, *, texts_max: int, window: int = sys.maxsize) -> None:
        self._texts_max = texts_max
        self._window = window
        self._next_id = 0
        self._by_text: dict[tuple[str, bool, str], _Entry] = {}
        self._sent: dict[int, _Entry] = {}
        self._rings: dict[bool, deque[Call]] = {False: deque(), True: deque()}
        self._waiting: Counter[tuple[str, bool]] = Counter()
        self._outstanding: Counter[tuple[str, bool]] = Counter()
        self._suspects = Suspects()
        self._alone: _Entry | None = None
        self.joined = 0

    def waiting(self, *, urgent: bool) -> int:
        """Return how many texts wait."""
        return _of(self._waiting, urgent)

    def outstanding(self, *, urgent: bool) -> int:
        """Return how many texts the worker has."""
        return _of(self._outstanding, urgent)

    def add(
        self, model: str, texts: Sequence[str], *, urgent: bool, on_done: Callable[[], None]
    ) -> Call:
        """Let texts wait.

        Raises:
            Rejected: RESOURCE_EXHAUSTED, or the worker died over one of them; none of them waits.
        """
        distinct = dict.fromkeys(texts)
        if any(self._suspects.guilty(model, text) for text in distinct):
            raise _fault()
        fresh = sum((model, urgent, text) not in self._by_text for text in distinct)
        waiting = self._waiting[model, urgent]
        if waiting + fresh > self._texts_max:
            raise Rejected(
                f"{waiting} texts wait for their embedding by {model} already.",
                reason=Reason.RESOURCE_EXHAUSTED,
                hint="Send fewer at once and try again; embedder.queue_texts_max is the bound.",
            )
        call = Call(on_done=on_done)
        by_text = {text: self._entry(model, text, urgent=urgent) for text in distinct}
        self.joined += len(texts) - fresh
        for entry in by_text.values():
            entry.calls.append(call)
            if not entry.sent:
                call.unsent.append(entry)
        call.entries = [by_text[text] for text in texts]
        call.missing = len(by_text)
        if call.unsent:
            self._rings[urgent].append(call)
        return call

    def take(self, *, urgent: bool, texts_max: int) -> Embed | None:
        """Return the next texts for the worker, all of one model; None if none may be sent."""
        if self._alone is not None:
            if self._sent:
                return None
            suspect = self._alone
            if suspect.calls and not suspect.sent:
                suspect.sent = True
                return self._send([suspect], urgent=suspect.urgent)
            self._alone = None
        taken: list[_Entry] = []
        others: list[Call] = []
        characters = 0
        ring = self._rings[urgent]
        while ring and len(taken) < texts_max:
            call = ring.popleft()
            entry = _next_unsent(call)
            if entry is None:
                continue
            if not self._fits(entry, taken):
                others.append(call)
                continue
            if taken and characters + len(entry.text) > CHARACTERS_MAX:
                ring.appendleft(call)
                break
            if self._suspects.alone(entry.model, entry.text):
                ring.appendleft(call)
                self._alone = entry
                break
            call.unsent.popleft()
            ring.append(call)
            entry.sent = True
            characters += len(entry.text)
            taken.append(entry)
        # Those of another model come first the next time.
        ring.extendleft(reversed(others))
        if not taken and self._alone is not None:
            return self.take(urgent=urgent, texts_max=texts_max)
        return self._send(taken, urgent=urgent)

    def settle(self, vectors: Mapping[int, bytes]) -> None:
        """Take in vectors; those nobody waits for any more are let go."""
        for text_id, vector in vectors.items():
            entry = self._answered(text_id)
            if entry is not None:
                self._suspects.clear(entry.model, entry.text)
                entry.vector = vector
                _tell(entry)

    def refuse(self, text_ids: Iterable[int], error: CrossfadeError) -> int:
        """Fail the callers of some texts; return how many of these had any."""
        missed = 0
        for text_id in text_ids:
            entry = self._answered(text_id)
            if entry is not None:
                missed += bool(entry.calls)
                entry.error = error
                _tell(entry)
        return missed

    def died(self) -> None:
        """Take in that the worker died over what it had; `fail_all` comes next."""
        self._suspects.died({(entry.model, entry.text) for entry in self._sent.values()})

    def fail_all(self, error: CrossfadeError) -> None:
        """Fail every caller; nothing waits after this."""
        entries = list(self._by_text.values())
        self._by_text.clear()
        self._sent.clear()
        self._alone = None
        for ring in self._rings.values():
            ring.clear()
        self._waiting.clear()
        self._outstanding.clear()
        for entry in entries:
            guilty = self._suspects.guilty(entry.model, entry.text)
            entry.error = _fault() if guilty else error
            _tell(entry)

    def drop(self, call: Call) -> list[int]:
        """Forget a caller who went away; his texts that nobody else waits for leave the queue.

        Returns:
            Those of them that the worker has, which it need not compute any more.
        """
        call.done = True
        abandoned: list[int] = []
        call.unsent.clear()
        for entry in dict.fromkeys(call.entries):
            if call in entry.calls:
                entry.calls.remove(call)
            key = (entry.model, entry.urgent, entry.text)
            if entry.calls or self._by_text.get(key) is not entry:
                continue
            # Whoever asks for this text from now on begins anew.
            del self._by_text[key]
            if entry.sent:
                abandoned.append(entry.text_id)
            else:
                self._waiting[entry.model, entry.urgent] -= 1
        return abandoned

    def _fits(self, entry: _Entry, taken: Sequence[_Entry]) -> bool:
        """True if a text may go with those taken: of their model, and the worker has room."""
        if taken and entry.model != taken[0].model:
            return False
        return self._outstanding[entry.model, entry.urgent] + len(taken) < self._window

    def _entry(self, model: str, text: str, *, urgent: bool) -> _Entry:
        key = (model, urgent, text)
        entry = self._by_text.get(key)
        if entry is None:
            self._next_id += 1
            entry = _Entry(text_id=self._next_id, model=model, text=text, urgent=urgent)
            self._by_text[key] = entry
            self._waiting[model, urgent] += 1
        return entry

    def _send(self, taken: list[_Entry], *, urgent: bool) -> Embed | None:
        if not taken:
            return None
        self._waiting[taken[0].model, urgent] -= len(taken)
        self._outstanding[taken[0].model, urgent] += len(taken)
        self._sent.update((entry.text_id, entry) for entry in taken)
        return Embed(
            model=taken[0].model,
            urgent=urgent,
            ids=[entry.text_id for entry in taken],
            texts=[entry.text for entry in taken],
        )

    def _answered(self, text_id: int) -> _Entry | None:
        entry = self._sent.pop(text_id, None)
        if entry is not None:
            self._outstanding[entry.model, entry.urgent] -= 1
            key = (entry.model, entry.urgent, entry.text)
            if self._by_text.get(key) is entry:
                del self._by_text[key]
        return entry


def _fault() -> Rejected:
    return Rejected(
        "A text has no embedding: the embedding worker died over it, again and again.",
        hint="Change the text, or give the vector.",
    )


def _of(counts: Mapping[tuple[str, bool], int], urgent: bool) -> int:
    return sum(count for (_, is_urgent), count in counts.items() if is_urgent is urgent)


def _next_unsent(call: Call) -> _Entry | None:
    """Return the caller's next text; one sent for another caller meanwhile is skipped."""
    while call.unsent and call.unsent[0].sent:
        call.unsent.popleft()
    return call.unsent[0] if call.unsent else None


def _tell(entry: _Entry) -> None:
    for call in entry.calls:
        call.missing -= 1
        if not call.done and (entry.error is not None or not call.missing):
            call.done = True
            call.on_done()
