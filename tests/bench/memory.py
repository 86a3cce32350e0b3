"""Part 5: the proxy's peak memory at two sizes of table, and the time from start to serving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from crossfade.client import F, Read

from proxy.demo.doc_server.corpus import Question
from tests.bench.figures import Figure, Results, below, median
from tests.bench.sizes import Sizes
from tests.bench.world import Serving, World, client_of, serving

PART = "5 memory"
_PROXY_MIB_MAX = 250.0
_RECONCILER_MIB_MAX = 300.0
_START_S_MAX = 2.0
_FLAT_MAX = 1.25
"""A peak at ten times the rows may be so much larger and still count as flat."""

_PAGE_ROWS = 200


async def proxy_peak(
    world: World, questions: Sequence[Question], sizes: Sizes, rows: int, results: Results
) -> float:
    """Start a proxy, read through it what applications read, and return its peak in MiB."""
    async with serving(world) as proxy:
        await _read(proxy, questions, sizes)
        peak = proxy.peak_mib()
    results.figures.append(below(PART, f"proxy, {rows:,} rows, peak", "MiB", peak, _PROXY_MIB_MAX))
    return peak


async def _read(proxy: Serving, questions: Sequence[Question], sizes: Sizes) -> None:
    """Search at once by every client, then page through records with their vectors."""
    async with client_of(proxy) as client:
        await asyncio.gather(
            *(
                client.search("documents", question.vector, limit=100, read=Read(vector=True))
                for question in questions[: sizes.clients]
            )
        )
        token = ""
        for _ in range(sizes.pages):
            page = await client.list(
                "documents", limit=_PAGE_ROWS, page_token=token, read=Read(vector=True)
            )
            token = page.next_page_token
            if not token:
                break
        await client.count("documents", filter=F("doc_type") == "rust", group_by="source_name")


def reconciler_peak(rows: int, peak: float, results: Results) -> float:
    """Keep the peak of a backfill's process."""
    results.figures.append(
        below(PART, f"backfill, {rows:,} rows, peak", "MiB", peak, _RECONCILER_MIB_MAX)
    )
    return peak


def flat(name: str, small: float, large: float, results: Results) -> None:
    """Compare the peaks at the two sizes."""
    ratio = large / small
    results.figures.append(
        Figure(
            part=PART,
            name=f"{name}, peak, many rows against few",
            unit="MiB",
            ours=large,
            direct=small,
            direct_name="few rows",
            compared=f"{ratio:.2f}x",
            goal=f"flat: at most {_FLAT_MAX:g}x",
            met=ratio <= _FLAT_MAX,
        )
    )


async def start_times(world: World, sizes: Sizes, results: Results) -> None:
    """Start a proxy some times; the median counts. A first start may have to compile modules."""
    seconds = []
    async with serving(world) as proxy:
        results.notes["first_start_s"] = round(proxy.start_s, 3)
    for _ in range(sizes.starts):
        async with serving(world) as proxy:
            seconds.append(proxy.start_s)
    results.notes["starts_s"] = [round(value, 3) for value in seconds]
    results.figures.append(below(PART, "from start to serving", "s", median(seconds), _START_S_MAX))
