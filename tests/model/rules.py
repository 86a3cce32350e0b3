"""The steps of design sections 3, 4 and 7 over a State; each rule can be left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from tests.model.state import At, Call, Copier, Mark, State, Step, Value, Writer

Move: TypeAlias = tuple[str, State]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is obeyed. Each False is a planted bug."""

    copy_needs_mark: bool = True
    """Step 0: the key is dirty or its range open before a copy begins, and stays so."""
    leave_out_in_flight: bool = True
    """Step 2: a key with an unsettled intent in the snapshot is left out."""
    compare_at_end: bool = True
    """Step 5: an intent that the snapshot does not see makes the key dirty."""
    by_visibility: bool = True
    """Steps 1 and 5 go by visibility, not by sequence order: an intent that is committed late has
    a lower number than one of another key that the snapshot sees."""
    detect_overlap: bool = True
    """W5: two intents overlap unless one was settled before the other was appended."""
    settle_after_writes: bool = True
    """Step 5 of a write comes after both stores have answered."""
    fail_makes_dirty: bool = True
    """Step 5 of a write: a store that failed or did not answer leaves the key dirty."""
    drain_before_swap: bool = True
    """A swap waits until nothing is unsettled and nothing dirty."""
    lease_before_calls: bool = True
    """A replica checks its lease before each store call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A bounded instance: what the writers write, how many copies, swaps and failures there are."""

    name: str
    writes: tuple[Value, ...]
    copies: int = 2
    swaps: int = 0
    failures: int = 1

    def start(self) -> State:
        """Return the state before anything has happened."""
        writers = tuple(Writer(value=value) for value in self.writes)
        return State(writers=writers, copies=self.copies, swaps=self.swaps, failures=self.failures)


def moves(state: State, rules: Rules) -> Iterator[Move]:
    """Yield every step that somebody may take next, with the state after it."""
    for number in range(len(state.writers)):
        yield from _writer(state, number, rules)
    yield from _copier(state, rules)
    yield from _swap(state, rules)


def _with(state: State, number: int, writer: Writer) -> State:
    writers = (*state.writers[:number], writer, *state.writers[number + 1 :])
    return replace(state, writers=writers)


def _marked(state: State) -> State:
    """Make the key dirty; a copy that has begun does not see it."""
    mark = Mark.SEEN if state.copier.step is Step.IDLE else Mark.LATER
    return replace(state, marks=state.marks | {mark})


def _copy_ended(state: State) -> State:
    """No copy is under way: what is marked, the next one will see."""
    marks = frozenset({Mark.SEEN}) if state.marks else frozenset[Mark]()
    return replace(state, copier=Copier(), marks=marks)


def _writer(state: State, number: int, rules: Rules) -> Iterator[Move]:
    writer, name = state.writers[number], f"writer {number}"
    if writer.at is At.IDLE and not state.held:
        yield f"{name} takes a number", _number(state, number)
    if writer.at is At.NUMBERED:
        yield (
            f"{name}: its intent is visible",
            _with(state, number, replace(writer, at=At.APPENDED)),
        )
        gone = Writer(value=writer.value, at=At.ENDED, number=writer.number)
        yield f"{name} is killed, its append undone", _with(state, number, gone)
    if writer.at is At.APPENDED and not writer.dead:
        yield from _calls(state, number, rules)
        if not rules.settle_after_writes and not writer.settled:
            early = _with(state, number, replace(writer, settled=True))
            yield f"{name} settles before it has written", early
        if Call.DUE not in writer.calls:
            yield f"{name} settles", _settle(state, number, rules)
        yield f"{name} is killed", _with(state, number, replace(writer, dead=True))
    if writer.open and not writer.taken:
        # Only its own store calls could still come, and none may once the lease is over.
        taken = replace(writer, settled=True, taken=True)
        over = _ended(writer) if writer.dead else taken
        yield (
            f"{name}: the lease is over, its intent is taken over",
            _marked(_with(state, number, over)),
        )


def _ended(writer: Writer) -> Writer:
    """Forget what no longer matters of a writer whose intent is settled."""
    return Writer(value=writer.value, at=At.ENDED, number=writer.number, settled=True)


def _number(state: State, number: int) -> State:
    before = frozenset(
        other for other, writer in enumerate(state.writers) if writer.settled and other != number
    )
    writer = replace(
        state.writers[number],
        at=At.NUMBERED,
        number=state.numbers + 1,
        primary=state.primary,
        before=before,
    )
    return replace(_with(state, number, writer), numbers=state.numbers + 1)


def _calls(state: State, number: int, rules: Rules) -> Iterator[Move]:
    """Both store calls, in any order; each may fail, or lose its answer."""
    writer = state.writers[number]
    if writer.taken and rules.lease_before_calls:
        return
    for store in (0, 1):
        if writer.calls[store] is not Call.DUE:
            continue
        role = "primary" if store == writer.primary else "secondary"
        for outcome in (Call.DONE, Call.FAILED, Call.UNKNOWN):
            if outcome is not Call.DONE and not state.failures:
                continue
            calls = (outcome, writer.calls[1]) if store == 0 else (writer.calls[0], outcome)
            after = _with(state, number, replace(writer, calls=calls))
            if outcome is not Call.DONE:
                after = replace(after, failures=state.failures - 1)
            if outcome is not Call.FAILED:
                after = _stored(after, store, writer.value)
                if store == state.primary:
                    after = replace(after, truth=writer.value)
            yield f"writer {number}: {role} {outcome.value}", after


def _stored(state: State, store: int, value: Value) -> State:
    stores = (value, state.stores[1]) if store == 0 else (state.stores[0], value)
    return replace(state, stores=stores)


def _settle(state: State, number: int, rules: Rules) -> State:
    writer = state.writers[number]
    failed = any(call is not Call.DONE for call in writer.calls)
    dirty = writer.taken or (failed and rules.fail_makes_dirty)
    if rules.detect_overlap and not dirty:
        dirty = any(
            _overlaps(writer, other, state.writers[other])
            for other in range(len(state.writers))
            if other != number
        )
    ended = _with(state, number, _ended(writer))
    return _marked(ended) if dirty else ended


def _overlaps(writer: Writer, other: int, that: Writer) -> bool:
    if not that.visible:
        return False
    return other not in writer.before


def _copier(state: State, rules: Rules) -> Iterator[Move]:
    copier = state.copier
    may_begin = state.open or bool(state.marks) or not rules.copy_needs_mark
    if copier.step is Step.IDLE:
        if state.copies and may_begin and not state.held:
            yield "copier takes its snapshot", _snapshot(state, rules)
        return
    yield "copier is killed", _copy_ended(state)
    if copier.step is Step.SNAPSHOT:
        held = state.stores[state.primary]
        read = replace(copier, step=Step.READ, held=held)
        yield f"copier reads {held}", replace(state, copier=read)
    elif copier.step is Step.READ:
        written = replace(copier, step=Step.WRITTEN)
        after = replace(state, copier=written)
        if not copier.left_out:
            after = _stored(after, 1 - state.primary, copier.held)
        yield "copier leaves it out" if copier.left_out else f"copier writes {copier.held}", after
    else:
        yield "copier finishes", _finish(state, rules)


def _snapshot(state: State, rules: Rules) -> State:
    seen = frozenset(number for number, item in enumerate(state.writers) if item.visible)
    in_flight = any(state.writers[number].open for number in seen)
    copier = Copier(
        step=Step.SNAPSHOT,
        seen=seen,
        highest=state.numbers,
        left_out=in_flight and rules.leave_out_in_flight,
    )
    # Without step 0 the marks are cleared when the copy begins, not when it has ended.
    marks = state.marks if rules.copy_needs_mark else frozenset[Mark]()
    return replace(state, copier=copier, copies=state.copies - 1, marks=marks)


def _finish(state: State, rules: Rules) -> State:
    """Step 5, one transaction."""
    copier = state.copier
    later = any(_is_later(item, number, copier, rules) for number, item in enumerate(state.writers))
    if copier.left_out:
        after = replace(_copy_ended(state), open=False)
        return _marked(after) if state.open else after
    after = replace(_copy_ended(replace(state, marks=state.marks - {Mark.SEEN})), open=False)
    return _marked(after) if later and rules.compare_at_end else after


def _is_later(item: Writer, number: int, copier: Copier, rules: Rules) -> bool:
    if not item.visible:
        return False
    return number not in copier.seen if rules.by_visibility else item.number > copier.highest


def _swap(state: State, rules: Rules) -> Iterator[Move]:
    if state.held:
        yield "the swap gives up", replace(state, held=False)
        if _drained(state) or not rules.drain_before_swap:
            swapped = replace(state, primary=1 - state.primary, held=False)
            yield "the primary is swapped", swapped
    elif state.swaps and not state.open:
        yield "writes are held for a swap", replace(state, held=True, swaps=state.swaps - 1)


def _drained(state: State) -> bool:
    """Nothing unsettled, nothing dirty, no append half done, no copy under way."""
    busy = any(item.at is At.NUMBERED or item.open for item in state.writers)
    return not (busy or state.marks or state.copier.step is not Step.IDLE)
