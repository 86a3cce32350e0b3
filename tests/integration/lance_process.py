"""A process that writes a LanceDB folder and says what was acknowledged, to be killed by a test.

Run as `python -m tests.integration.lance_process FOLDER SEED`; it prints "open", then for each
write "try KEY NUMBER" (a delete has the number 0) and, once it is acknowledged, "ok KEY NUMBER".
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from proxy.config.settings import LanceSettings
from proxy.model import Applied
from proxy.stores.lancedb import LanceStore
from tests.lance import gone, item, lance

_CLIENTS = 16
_KEYS_EACH = 8


async def client(store: LanceStore, number: int, rng: random.Random) -> None:
    """Write keys of one's own, one after the other, a new number each time."""
    step = 0
    while True:
        step += 1
        key = f"c{number:02d}-{rng.randrange(_KEYS_EACH)}"
        delete = rng.random() < 0.25
        write = gone("items", key) if delete else item(key, number=step)
        tell(f"try {key} {0 if delete else step}")
        (result,) = await store.apply([write], atomic=False, deadline_s=60)
        if result.applied not in (Applied.DONE, Applied.NOT_FOUND):
            raise RuntimeError(str(result))
        tell(f"ok {key} {0 if delete else step}")


def tell(line: str) -> None:
    """Print a line at once: what is said is said, even before kill -9."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main() -> None:
    """Write until killed; optimise often, so that kills fall there too."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    store = lance(folder, settings=LanceSettings(flush_ms=0.5, optimize_commits=3))
    await store.open()
    tell("open")
    async with asyncio.TaskGroup() as group:
        for number in range(_CLIENTS):
            group.create_task(client(store, number, random.Random(seed * 100 + number)))


if __name__ == "__main__":
    asyncio.run(main())
