"""Part 7: LanceDB as a store, and embeddings made in the proxy; each beside its direct way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from proxy.demo.embedded_pg import databases
from proxy.demo.processes import Household
from tests.bench import item_copies, item_search, item_texts, item_writes
from tests.bench.figures import Results
from tests.bench.item_world import ItemWorld
from tests.bench.sizes import Sizes
from tests.bench.world import World

_NAMES = {"old": "work_items", "ledger": "crossfade_ledger"}

Step = Callable[[str, World], AbstractContextManager[None]]


@contextmanager
def _made(household: Household, scratch: Path) -> Iterator[ItemWorld]:
    scratch.mkdir()
    with databases(scratch / "postgresql", _NAMES, scratch / "new") as dsns:
        world = World(dsns=dsns, household=household, scratch=scratch, config_file=scratch)
        yield ItemWorld(world=world)


async def measure(
    household: Household, scratch: Path, step: Step, sizes: Sizes, results: Results
) -> None:
    """Measure the part; `step` says what is measured now."""
    # The processes that are started replace their image at once: none of them goes on with what
    # it has of LanceDB from this one.
    warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
    with _made(household, scratch) as items:
        with step("lancedb: upserts by the store", items.world):
            await item_writes.measure_store(items, sizes, results)
        with step("lancedb: search after scattered upserts", items.world):
            await item_search.measure(items, sizes, results)
        with step(f"lancedb: backfill of {sizes.items:,} rows, and the proxy", items.world):
            await item_copies.measure(items, sizes, results)
        missed = {item.name.split()[0] for item in results.missed(item_writes.PART)}
        if sizes.explain and "backfill" in missed:
            with step("lancedb: profile of the backfill", items.world):
                results.profiles["backfill into LanceDB"] = await item_copies.explain(items)
        with step("embeddings: inserts of texts", items.world):
            await item_texts.measure(items, sizes, results)
        missed = {item.name.split()[0] for item in results.missed(item_writes.PART)}
        if sizes.explain and "inserts" in missed:
            with step("embeddings: profile", items.world):
                results.profiles["proxy while it embeds"] = await item_texts.explain(items, sizes)
