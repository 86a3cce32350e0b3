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
        items: rows of the LanceDB table that is searched, and of the one that is filled.
        scattered: upserts all over it before it is searched.
        item_searches: searches of it, and of its optimised copy.
        singles, raw_singles: single-record upserts with 64 in flight, and raw merge_inserts.
        batched: rows upserted in batches.
        proxied: single-record upserts through the proxy.
        texts: texts that are embedded by each way in each round.
        encode_batches: batch sizes at which the model alone is tried.
        rounds: of the ways that are compared in turns.
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
    items: int = 50_000
    scattered: int = 10_000
    item_searches: int = 200
    singles: int = 6_000
    raw_singles: int = 150
    batched: int = 20_000
    proxied: int = 2_000
    texts: int = 600
    encode_batches: tuple[int, ...] = (8, 16, 32, 64, 128)
    rounds: int = 3
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
    items=300,
    scattered=64,
    item_searches=5,
    singles=128,
    raw_singles=6,
    batched=200,
    proxied=64,
    texts=8,
    encode_batches=(8,),
    rounds=1,
    explain=False,
)
