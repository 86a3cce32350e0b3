"""How large a benchmark is: rows, repetitions, clients; whole, or small enough for a test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of one run.

    Attributes:
        documents: documents of the corpus that are used, 0 for all.
        rows: rows of the copied table, made by repeating the corpus.
        script_rows: rows that the CSV script moves; its rate is what counts.
        copy_rounds: how often each way of copying runs, in turns.
        scans, near, writes: calls of each way by one client: exact searches, searches by index,
            upserts.
        clients: concurrent clients of the second measurement.
        each: calls of each client and way in that measurement.
        starts: how often a proxy is started for the time to serving.
        pages: pages of records with vectors that are read before memory is taken.
        build_index: build the index over all `rows` as well (minutes).
        explain: profile what missed its goal.
    """

    documents: int = 0
    rows: int = 44_951
    script_rows: int = 2_000
    copy_rounds: int = 2
    scans: int = 150
    near: int = 1_000
    writes: int = 300
    clients: int = 8
    each: int = 40
    starts: int = 5
    pages: int = 10
    build_index: bool = False
    explain: bool = True


QUICK = Sizes(
    documents=120,
    rows=240,
    script_rows=40,
    copy_rounds=1,
    scans=10,
    near=20,
    writes=10,
    clients=4,
    each=3,
    starts=1,
    pages=2,
    explain=False,
)
