"""What the demo of one preset is made of: its data, its stores, its live clients and its judge."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from proxy.demo.checks import Contents
from proxy.demo.damage import Damage
from proxy.demo.options import Pace
from proxy.demo.oracle import Expectation, Oracle
from proxy.demo.traffic import Traffic
from proxy.model import JsonValue

Client: TypeAlias = Coroutine[None, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where a run's data lies, and what serves it.

    Attributes:
        old, ledger: connection strings; new: one too, or the folder of an embedded store.
        engine: for the report ("PostgreSQL 18.1, pgvector 0.8.5, embedded").
        server_pid: of the embedded PostgreSQL, None for CROSSFADE_DSN.
    """

    old: str
    new: str
    ledger: str
    engine: str
    server_pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The plain facts of a scenario.

    Attributes:
        title: what moves where, for the heading.
        migration: its name in the configuration and in the report.
        databases: PostgreSQL databases to make, role ("old", "new", "ledger") to name; without a
            "new" the new store is a folder.
        replicas_max: proxy processes at most.
        reconciler_inside: the proxy runs the reconciler, because the new store has one writing
            process; otherwise it is a process of its own.
    """

    preset: str
    title: str
    migration: str
    databases: Mapping[str, str]
    replicas_max: int = 4
    reconciler_inside: bool = False


class Scenario(Protocol):
    """One preset's demo. What it writes and expects follows from options and seed alone.

    So the clients, which are a process of their own, and the judge agree without a word.
    """

    profile: Profile
    pace: Pace

    def about(self) -> Mapping[str, JsonValue]:
        """Return the report's account of the input."""

    def facts(self) -> Sequence[tuple[str, str]]:
        """Return (name, text) lines about the input for a person."""

    async def load(self, stores: Stores) -> str:
        """Make the tables, fill the old store as the old application left it; say what was done."""

    def settings(self, stores: Stores) -> Mapping[str, JsonValue]:
        """Return what the configuration has beyond the common part: preset, stores, gates."""

    def know(self, oracle: Oracle) -> None:
        """Tell the oracle what the writers' keys hold before the traffic begins."""

    def staff(self, traffic: Traffic) -> list[Client]:
        """Return every live client, not yet running."""

    def inflict(self, stores: Stores, kinds: Sequence[str]) -> list[Damage]:
        """Spoil one row behind the proxy's back for each kind, that nobody writes."""

    async def examine(
        self, stores: Stores, expected: Sequence[Expectation]
    ) -> tuple[Contents, list[str]]:
        """Read both stores whole and directly, with nothing of Crossfade between.

        Returns:
            What they hold, and what is wrong with it beyond differences of the two and lost
            writes, as sentences; none if all is well.
        """
