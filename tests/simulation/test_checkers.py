"""Each checker notices what it is there for, on a history made by hand, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from proxy.model import Key
from tests.simulation.checkers import CHECKERS, Ended, check_all
from tests.simulation.history import Chosen, History, Outcome, Seen, Written

KEY: Key = ("k",)


def wrote(
    number: int,
    began_s: float,
    ended_s: float,
    *,
    op: str = "upsert",
    outcome: Outcome = Outcome.ACKNOWLEDGED,
) -> Written:
    """Return a write of the one key."""
    return Written(
        number=number,
        key=KEY,
        op=op,
        body=None if op == "delete" else f"{number}",
        began_s=began_s,
        ended_s=ended_s,
        latest_s=float("inf") if outcome is Outcome.UNKNOWN else ended_s,
        replica="r",
        outcome=outcome,
    )


def read(body: str | None, began_s: float) -> Seen:
    """Return a read of the one key."""
    return Seen(key=KEY, body=body, began_s=began_s, ended_s=began_s + 0.1, where="r")


def sound() -> Ended:
    """Return a run in which everything was as it should be."""
    history = History(
        initial={KEY: "0"},
        writes=[
            wrote(1, 1, 2),
            wrote(2, 3, 4, op="delete"),
            wrote(3, 5, 6, outcome=Outcome.REFUSED),
            wrote(4, 7, 8, outcome=Outcome.UNKNOWN),
            wrote(5, 9, 10),
        ],
        reads=[read("0", 0.5), read("1", 2.5), read(None, 4.5), read("4", 8.5), read("5", 10.5)],
        choices=[
            Chosen(targeting_key="t", percent=10, new=False, replica="r"),
            Chosen(targeting_key="t", percent=20, new=True, replica="s"),
        ],
    )
    return Ended(
        history=history,
        final={KEY: "5"},
        other={KEY: "5"},
        final_s=20,
        both=True,
        damaged={("d",): "missing"},
        declared={("d",): "missing"},
    )


def _seen(*seen: Seen) -> Callable[[Ended], None]:
    def change(ended: Ended) -> None:
        ended.history.reads += seen

    return change


def _final(body: str | None, *, back: bool = False) -> Callable[[Ended], None]:
    def change(ended: Ended) -> None:
        ended.final = {} if body is None else {KEY: body}
        ended.other = dict(ended.final)
        ended.rolled_back = back

    return change


def _final_older(ended: Ended) -> None:
    ended.history.writes = [wrote(1, 1, 2), wrote(2, 3, 4)]
    ended.history.reads = []
    _final("1")(ended)


def _chose_back(ended: Ended) -> None:
    last = ended.history.choices[-1]
    ended.history.choices.append(replace(last, percent=30, new=False))


def _differ(ended: Ended) -> None:
    ended.other = {KEY: "6"}


def _restless(ended: Ended) -> None:
    ended.quiet = "3 dirty"


def _overlooked(ended: Ended) -> None:
    ended.declared = {}


def _slandered(ended: Ended) -> None:
    ended.declared = {("d",): "missing", KEY: "mismatched"}


def _in_flight_declared(ended: Ended) -> None:
    ended.declared_live = {KEY: "mismatched"}


BROKEN: list[tuple[str, Callable[[Ended], None]]] = [
    ("no phantom", _seen(read("99", 5))),
    ("no phantom", _seen(read("3", 6.5))),
    ("no phantom", _seen(read("5", 8.2))),
    ("no resurrected delete", _seen(read("1", 4.5))),
    ("read your writes", _seen(read("0", 2.5))),
    ("read your writes", _seen(read(None, 2.5))),
    ("acknowledged writes present", _final(None)),
    ("no lost update", _final_older),
    ("rollback loses nothing", _final(None, back=True)),
    ("sticky and monotone routing", _chose_back),
    ("both stores equal", _differ),
    ("both stores equal", _restless),
    ("verify names what is damaged", _overlooked),
    ("verify names what is damaged", _slandered),
    ("verify names what is damaged", _in_flight_declared),
]


def test_a_sound_run_is_found_sound() -> None:
    assert check_all(sound()) == []


@pytest.mark.parametrize(("checker", "change"), BROKEN)
def test_what_is_broken_is_noticed_by_the_checker_that_is_there_for_it(
    checker: str, change: Callable[[Ended], None]
) -> None:
    ended = sound()
    change(ended)
    assert checker in {found.checker for found in check_all(ended)}


def test_no_checker_is_left_out() -> None:
    assert {checker.name for checker in CHECKERS} == {name for name, _ in BROKEN}
