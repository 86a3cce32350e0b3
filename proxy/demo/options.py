"""What a demo can be told, and how large and how fast it runs, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRESETS = ("doc-server", "work-items")
DAMAGE_KINDS = ("changed", "removed", "added")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """One run of the demo, as the command line gives it.

    Attributes:
        preset: which migration, out of PRESETS.
        out: directory of report.json and report.html; made if it is missing.
        corpus: a file of the preset's data; None looks for ../shared/data, then harvests the
            documentation strings of this Python.
        seed: of every random choice; None draws one (it is printed and reported).
        quick: a small corpus and short phases, for tests.
        damage: kinds out of DAMAGE_KINDS; each spoils one row behind the proxy's back before
            the last verify, which must then name it (a test of the demo itself).
        replicas: proxy processes; None for as many as the preset's demo has.
    """

    preset: str = "doc-server"
    out: Path = Path("demo-report")
    corpus: Path | None = None
    seed: int | None = None
    quick: bool = False
    damage: tuple[str, ...] = ()
    replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Sizes, rates and waits of a run.

    Attributes:
        documents, live_documents, queries: at most so many are used, 0 for all.
        dwell_s: how long live traffic runs in each phase before the next step.
        shadow_queries_min: compared queries to wait for before the ramp.
        latency_ratio_max: the new store's p95 may be so many times the old one's.
        shadow_timeout_s: give up waiting for them after this.
        writes_per_s, reads_per_s, searches_per_s: what the clients aim at, all together.
        writers: concurrent client tasks that write.
        live_writes_min: acknowledged writes a run must reach to count as passed.
        stall_ms_max: a swap may hold a client's write no longer than this.
    """

    documents: int = 0
    live_documents: int = 0
    queries: int = 0
    dwell_s: float = 6.0
    shadow_queries_min: int = 150
    latency_ratio_max: float = 1.1
    shadow_timeout_s: float = 60.0
    writes_per_s: float = 30.0
    reads_per_s: float = 12.0
    searches_per_s: float = 12.0
    writers: int = 8
    live_writes_min: int = 1000
    stall_ms_max: float = 250.0


def pace_of(options: DemoOptions) -> Pace:
    """Return the pace of a run: whole, or small enough for a test."""
    if not options.quick:
        return Pace()
    return Pace(
        documents=400,
        live_documents=150,
        queries=20,
        dwell_s=1.0,
        shadow_queries_min=30,
        # So few documents are scanned on both stores: the ratio of two equal scans is noise.
        latency_ratio_max=10.0,
        shadow_timeout_s=30.0,
        writes_per_s=40.0,
        searches_per_s=20.0,
        live_writes_min=100,
    )
