"""The checkers: each judges one promise, from what clients saw and from what the stores hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from proxy.model import Key
from tests.simulation.history import Chosen, History, Outcome, Seen, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A promise that was broken: by which checker, and how."""

    checker: str
    text: str

    def __str__(self) -> str:
        return f"{self.checker}: {self.text}"


@dataclass(slots=True)
class Ended:
    """What a run leaves behind.

    Attributes:
        final: the store that is primary at the end, by key, read when nothing moved any more.
        findings: what was found while the run went on.
        declared_live: what verify named while nothing was damaged, beside live traffic.
        damaged, declared: what was damaged on purpose and what verify named, as {key: kind}.
    """

    history: History
    final: dict[Key, str] = field(default_factory=dict)
    final_s: float = 0.0
    both: bool = False
    other: dict[Key, str] = field(default_factory=dict)
    rolled_back: bool = False
    quiet: str = ""
    declared_live: Mapping[Key, str] = field(default_factory=dict)
    damaged: Mapping[Key, str] | None = None
    declared: Mapping[Key, str] | None = None
    findings: list[Finding] = field(default_factory=list)


class Checker(Protocol):
    """Judges a run that has ended."""

    @property
    def name(self) -> str:
        """The promise, in a few words."""

    def check(self, ended: Ended) -> Iterator[str]:
        """Yield what is wrong."""


def _effective(item: Written) -> bool:
    return item.outcome is Outcome.ACKNOWLEDGED


def _passed_over(
    source_latest_s: float, writes: Iterable[Written], before_s: float
) -> Written | None:
    """Return an acknowledged write that came after the source for certain, and before the read."""
    for item in writes:
        if _effective(item) and source_latest_s < item.began_s and item.ended_s < before_s:
            return item
    return None


def _finals(ended: Ended) -> Iterator[Seen]:
    keys = {item.key: None for item in ended.history.writes} | dict.fromkeys(ended.history.initial)
    where = "the end, after a rollback" if ended.rolled_back else "the end"
    for key in keys:
        yield Seen(
            key=key,
            body=ended.final.get(key),
            began_s=ended.final_s,
            ended_s=ended.final_s,
            where=where,
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """What is wrong with one read, if anything: of which kind."""

    kind: str
    text: str


def judge(history: History, seen: Seen) -> Judged | None:
    """Return what is wrong with what was seen of a key."""
    writes = history.of(seen.key)
    if seen.body is None:
        return _judge_absent(history, seen, writes)
    if history.initial.get(seen.key) == seen.body:
        later = _passed_over(float("-inf"), writes, seen.began_s)
        return _stale(seen, later) if later else None
    sources = [item for item in writes if item.body == seen.body]
    if not sources:
        return Judged("phantom", f"{_of(seen)}: nobody wrote that")
    source = sources[0]
    if source.outcome is Outcome.REFUSED:
        return Judged("phantom", f"{_of(seen)}: that write was refused: {source.detail}")
    if source.began_s > seen.ended_s:
        return Judged("phantom", f"{_of(seen)}: it was written only at {source.began_s:.3f}")
    later = _passed_over(source.latest_s, writes, seen.began_s)
    return _stale(seen, later) if later else None


def _judge_absent(history: History, seen: Seen, writes: list[Written]) -> Judged | None:
    latest = [float("-inf")] if seen.key not in history.initial else []
    latest += [
        item.latest_s
        for item in writes
        if item.op == "delete"
        and item.outcome is not Outcome.REFUSED
        and item.began_s <= seen.ended_s
    ]
    kept = [item for item in writes if item.op != "delete"]
    missing: Written | None = None
    for latest_s in latest:
        missing = _passed_over(latest_s, kept, seen.began_s)
        if missing is None:
            return None
    what = f"write {missing.number} was acknowledged" if missing else "nobody deleted it"
    return Judged("missing", f"{_of(seen)}: {what}")


def _stale(seen: Seen, later: Written) -> Judged:
    kind = "resurrected" if later.op == "delete" else "stale"
    return Judged(
        kind,
        f"{_of(seen)}: {later.op} {later.number} ({later.body}) through {later.replica} was"
        f" acknowledged at {later.ended_s:.3f}",
    )


def _of(seen: Seen) -> str:
    return f"{seen.key[0]} was {seen.body!r} at {seen.began_s:.3f} ({seen.where})"


@dataclass(frozen=True, slots=True)
class FinalState:
    """Looks at what is there at the end, and names one kind of loss."""

    name: str
    kind: str

    def check(self, ended: Ended) -> Iterator[str]:
        """Judge each key of the final state; after a rollback that is another checker's."""
        if ended.rolled_back:
            return
        for seen in _finals(ended):
            judged = judge(ended.history, seen)
            if judged is not None and judged.kind == self.kind:
                yield judged.text


class NoResurrectedDelete:
    """What was deleted stays deleted, at the end and in every read."""

    name = "no resurrected delete"

    def check(self, ended: Ended) -> Iterator[str]:
        """Judge reads and the final state."""
        for seen in (*ended.history.reads, *_finals(ended)):
            judged = judge(ended.history, seen)
            if judged is not None and judged.kind == "resurrected":
                yield judged.text


class NoPhantom:
    """Nothing is seen that nobody wrote, or whose write was refused."""

    name = "no phantom"

    def check(self, ended: Ended) -> Iterator[str]:
        """Judge reads and the final state."""
        for seen in (*ended.history.reads, *_finals(ended)):
            judged = judge(ended.history, seen)
            if judged is not None and judged.kind == "phantom":
                yield judged.text


class ReadYourWrites:
    """What was acknowledged through one replica is read through any other (R1)."""

    name = "read your writes"

    def check(self, ended: Ended) -> Iterator[str]:
        """Judge every read by key."""
        for seen in ended.history.reads:
            judged = judge(ended.history, seen)
            if judged is not None and judged.kind in ("stale", "missing"):
                yield judged.text


class RollbackLosesNothing:
    """After a rollback the old store alone has everything."""

    name = "rollback loses nothing"

    def check(self, ended: Ended) -> Iterator[str]:
        """Judge the final state of a run that went all the way back."""
        if ended.rolled_back:
            for seen in _finals(ended):
                judged = judge(ended.history, seen)
                if judged is not None:
                    yield judged.text


class StickyRouting:
    """A targeting key sticks to its side, and a higher percentage only adds keys (R2)."""

    name = "sticky and monotone routing"

    def check(self, ended: Ended) -> Iterator[str]:
        """Compare every answer of the flag with every other of the same key."""
        most_old: dict[str, Chosen] = {}
        least_new: dict[str, Chosen] = {}
        for item in ended.history.choices:
            known = (least_new if item.new else most_old).get(item.targeting_key)
            if item.new and (known is None or item.percent < known.percent):
                least_new[item.targeting_key] = item
            if not item.new and (known is None or item.percent > known.percent):
                most_old[item.targeting_key] = item
        for key, new in least_new.items():
            old = most_old.get(key)
            if old is not None and old.percent >= new.percent:
                yield (
                    f"{key} read the new store at {new.percent:g} % ({new.replica}) and the old"
                    f" one at {old.percent:g} % ({old.replica})"
                )


class StoresEqual:
    """Once nothing moves and everything is repaired both stores hold the same."""

    name = "both stores equal"

    def check(self, ended: Ended) -> Iterator[str]:
        """Compare the two stores, and tell if quiet never came."""
        if ended.quiet:
            yield ended.quiet
        if not ended.both:
            return
        for key in {**ended.final, **ended.other}:
            here, there = ended.final.get(key), ended.other.get(key)
            if here != there:
                yield f"{key[0]} is {here!r} on the primary and {there!r} on the secondary"


class VerifyExact:
    """Verify names exactly the rows that were damaged, each with its kind."""

    name = "verify names what is damaged"

    def check(self, ended: Ended) -> Iterator[str]:
        """Compare what was damaged with what was declared."""
        for key, kind in ended.declared_live.items():
            yield f"{key[0]} was said to be {kind} while it was only being written"
        if ended.damaged is None or ended.declared is None:
            return
        for key in {**ended.damaged, **ended.declared}:
            was, said = ended.damaged.get(key), ended.declared.get(key)
            if was != said:
                yield f"{key[0]} is {was or 'sound'}, verify says {said or 'nothing'}"


CHECKERS: tuple[Checker, ...] = (
    NoPhantom(),
    NoResurrectedDelete(),
    ReadYourWrites(),
    FinalState("acknowledged writes present", "missing"),
    FinalState("no lost update", "stale"),
    RollbackLosesNothing(),
    StickyRouting(),
    StoresEqual(),
    VerifyExact(),
)


def check_all(ended: Ended) -> list[Finding]:
    """Return every finding of a run, those made while it went on first."""
    found = list(ended.findings)
    for checker in CHECKERS:
        found += [Finding(checker=checker.name, text=text) for text in checker.check(ended)]
    return found
