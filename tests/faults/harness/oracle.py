"""Which states of a key are allowed, by what clients did and were told.

Each write of a key is an interval of time with an outcome. A write may be the last one unless an
acknowledged write began after it had certainly ended. A write whose outcome the client does not
know ends `GRACE_S` after the client gave up: past that every deadline of the proxy is over.
Only what must hold is checked, so that a finding is a defect.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from crossfade.client.errors import CallError

Key = tuple[str, ...]
GRACE_S = 10.0
"""Hold of writes, a lease, the store's own deadline, and some."""


class Outcome(Enum):
    """What the client knows."""

    RUNNING = "running"
    DONE = "done"
    MAYBE = "maybe"
    REFUSED = "refused"


@dataclass(eq=False, slots=True)
class Op:
    """One write of one key.

    Attributes:
        token: the content it stores, None for a delete.
        tokens: `token_count` that it stores, None if it leaves it or the client does not know.
        sweeping: one of many keys of a delete by condition, so it counts as an acknowledged
            delete only if nobody else wrote the key meanwhile.
    """

    token: str | None
    began_s: float
    tokens: int | None = None
    sweeping: bool = False
    ended_s: float = math.inf
    outcome: Outcome = Outcome.RUNNING

    @property
    def last_s(self) -> float:
        """When it can have taken effect at the latest."""
        return self.ended_s if self.outcome is Outcome.DONE else self.ended_s + GRACE_S

    @property
    def possible(self) -> bool:
        """True if it may have taken effect."""
        return self.outcome is not Outcome.REFUSED

    def done(self, tokens: int | None = None) -> None:
        """The client has its acknowledgement."""
        self.outcome, self.ended_s = Outcome.DONE, time.monotonic()
        self.tokens = self.tokens if tokens is None else tokens

    def refused(self) -> None:
        """Nothing was changed, the proxy says."""
        self.outcome, self.ended_s = Outcome.REFUSED, time.monotonic()

    def unknown(self) -> None:
        """It may have been applied."""
        self.outcome, self.ended_s = Outcome.MAYBE, time.monotonic()

    def failed(self, error: CallError) -> None:
        """The call failed. What sweeps over many keys may have been applied to some of them."""
        if error.maybe_applied or self.sweeping:
            self.unknown()
        else:
            self.refused()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a read returned; `token` None for no record."""

    key: Key
    began_s: float
    ended_s: float
    token: str | None
    tokens: int | None
    by: str


@dataclass
class Oracle:
    """Every write, and every read."""

    ops: dict[Key, list[Op]] = field(default_factory=lambda: defaultdict(list))
    seen: list[_Seen] = field(default_factory=list)
    acknowledged: int = 0

    def loaded(self, key: Key, token: str | None, tokens: int | None = None) -> None:
        """Tell what was there before the first write (None: nothing)."""
        began = Op(token=token, began_s=-math.inf, tokens=tokens, ended_s=-math.inf)
        began.outcome = Outcome.DONE
        self.ops[key].append(began)

    def began(self, key: Key, token: str | None, **what: int | bool | None) -> Op:
        """Note that a client is about to send a write."""
        op = Op(
            token=token,
            began_s=time.monotonic(),
            tokens=what.get("tokens"),
            sweeping=bool(what.get("sweeping")),
        )
        self.ops[key].append(op)
        return op

    @contextmanager
    def writing(self, ops: Sequence[Op]) -> Iterator[None]:
        """Take the outcome of a call for these writes; an error goes no further."""
        try:
            yield
        except CallError as error:
            for op in ops:
                if op.outcome is Outcome.RUNNING:
                    op.failed(error)
        except BaseException:
            for op in ops:
                op.unknown()
            raise
        else:
            for op in ops:
                if op.outcome is Outcome.RUNNING:
                    op.done()
        self.acknowledged += sum(op.outcome is Outcome.DONE for op in ops)

    def read(self, key: Key, began_s: float, found: Mapping[str, object] | None, by: str) -> None:
        """Note what a read returned."""
        token = None if found is None else str(found["content"])
        count = None if found is None else found["token_count"]
        tokens = count if isinstance(count, int) else None
        self.seen.append(_Seen(key, began_s, time.monotonic(), token, tokens, by))

    def problems(self, stored: Mapping[Key, tuple[str, int | None]]) -> Iterator[str]:
        """Yield what is wrong with the final state: key -> (content, token_count)."""
        for key, ops in self.ops.items():
            token, tokens = stored.get(key, (None, None))
            why = _wrong(ops, token, tokens, math.inf, math.inf)
            if why:
                yield f"{key} ends as {token!r} ({tokens}): {why}\n{_history(ops)}"
        for key in stored.keys() - self.ops.keys():
            yield f"{key} is stored and nobody wrote it"

    def stale_reads(self) -> Iterator[str]:
        """Yield reads that missed a write acknowledged before they began (rule R1)."""
        for seen in self.seen:
            ops = self.ops[seen.key]
            why = _wrong(ops, seen.token, seen.tokens, seen.began_s, seen.ended_s)
            if why:
                at = f"[{seen.began_s:.3f} {seen.ended_s:.3f}] by {seen.by}"
                yield f"{seen.key} was read {at} as {seen.token!r}: {why}\n{_history(ops)}"


def _wrong(
    ops: Sequence[Op], token: str | None, tokens: int | None, from_s: float, to_s: float
) -> str:
    """Say why a state cannot be seen by somebody who looks from `from_s` to `to_s`."""
    makers = [op for op in ops if op.token == token and op.possible and op.began_s <= to_s]
    if not makers:
        refused = any(op.token == token for op in ops)
        return "only a refused write made it" if refused else "nobody made it"
    closed_s = max(
        (op.began_s for op in ops if op.ended_s < from_s and _certain(op, ops)), default=-math.inf
    )
    fresh = [op for op in makers if closed_s <= op.last_s]
    if not fresh:
        return "an acknowledged write came after it"
    known = {op.tokens for op in fresh if op.tokens is not None}
    unsure = any(op.tokens is None for op in fresh)
    if token is not None and not unsure and tokens not in known:
        return f"token_count should be one of {known}"
    return ""


def _certain(op: Op, ops: Iterable[Op]) -> bool:
    """True if the key was in this write's state at some time between its begin and its end."""
    if op.outcome is not Outcome.DONE:
        return False
    alone = all(
        other is op or other.last_s < op.began_s or other.began_s > op.ended_s for other in ops
    )
    return alone or not op.sweeping


def _history(ops: Iterable[Op]) -> str:
    return "\n".join(
        f"    [{op.began_s:.3f} {op.ended_s:.3f}] {op.outcome.value} {op.token!r} {op.tokens}"
        + (" sweeping" if op.sweeping else "")
        for op in sorted(ops, key=lambda op: op.began_s)
    )
