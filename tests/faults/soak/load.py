"""The long form of the overload test: python -m tests.faults.soak.load. The machine is the limit.

The proxy has its default limits; those who call it are processes of their own, so that what they
cost is not taken for the proxy's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from crossfade.client import AsyncClient

from tests.faults.harness.overload import Arrivals, Offered
from tests.faults.harness.processes import Process
from tests.faults.harness.servers import own_server
from tests.faults.harness.trial import PAIRS, Trial, open_trial, weight

SHARES = (1.0, 1.5, 3.0, 0.5)
"""Of the capacity: held, exceeded, exceeded by far, and fallen again."""
GROWTH_MB_MAX = 300
CALLERS = 2
TIMEOUT_S = 5.0
DEFAULTS = {
    "writes": {"primary_deadline_s": 5.0, "secondary_deadline_s": 2.0, "breaker_open_s": 5.0},
    "ledger": {"lease_s": 20.0},
}


def main() -> int:
    """Measure and print; return 1 if the product collapses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each held load")
    parser.add_argument("--caller", nargs=3, metavar=("TARGET", "RATE", "FIRST"))
    options = parser.parse_args()
    # Told to end, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.caller:
        target, rate, first = options.caller
        asyncio.run(_call(target, float(rate), int(first), options.seconds))
        return 0
    failed = 0
    for engines in PAIRS:
        print(f"== {engines[0]} to {engines[1]}", flush=True)
        with own_server() as server, tempfile.TemporaryDirectory(prefix="crossfade-load-") as name:
            failed |= asyncio.run(_measure(engines, server.make, Path(name), options.seconds))
    return failed


async def _call(target: str, rate: float, first: int, seconds: float) -> None:
    """Be one caller: offer a rate (0: as fast as it is answered), print what became of it."""
    client = AsyncClient(target, retries=0)
    arrivals = Arrivals(client, timeout_s=TIMEOUT_S, first=first)
    if rate:
        offered = await arrivals.offer(rate, for_s=seconds)
    else:
        offered = Offered(await arrivals.capacity(for_s=seconds, workers=16), seconds)
    await client.close()
    print(json.dumps(offered.told()), flush=True)


async def _measure(
    engines: tuple[str, str], make: Callable[[], str], folder: Path, seconds: float
) -> int:
    """Measure one pair of engines; return 1 if a bound was passed."""
    async with open_trial(engines, folder, make) as trial:
        trial.scene.overrides.update(DEFAULTS)
        await trial.begin()
        start_mb, _ = weight(trial.replica.process)
        capacity = sum(one.rate for one in await _offered(trial, folder, 0.0, seconds / 2))
        print(f"capacity {capacity:.0f}/s, {start_mb:.0f} MB", flush=True)
        wrong = []
        for share in SHARES:
            callers = await _offered(trial, folder, share * capacity, seconds)
            offered = _joined(callers, share * capacity)
            mb, _ = weight(trial.replica.process)
            print(f"{share:g} x: {offered}; {mb:.0f} MB", flush=True)
            if offered.goodput < min(share, 1.0) * capacity / 2:
                wrong.append(f"goodput {offered.goodput:.0f}/s at {share:g} x")
            if mb - start_mb > GROWTH_MB_MAX:
                wrong.append(f"{mb:.0f} MB at {share:g} x")
        await trial.scene.quiet(60)
        await trial.pair.assert_equal()
    print("\n".join(f"FAILED: {one}" for one in wrong) or "no collapse; both stores equal")
    return int(bool(wrong))


async def _offered(trial: Trial, folder: Path, rate: float, seconds: float) -> list[Offered]:
    """Have every caller offer its share; return what each was told."""
    processes = []
    for number in range(CALLERS):
        what = [trial.replica.target, str(rate / CALLERS), str(number * 2_000)]
        process = Process(
            f"caller-{number}",
            ["--seconds", str(seconds), "--caller", *what],
            folder / f"caller-{number}.log",
            module="tests.faults.soak.load",
        )
        await process.start()
        processes.append(process)
    told = [await process.output() for process in processes]
    for process in processes:
        assert await process.ended() == 0, process.tail()
    return [Offered.heard(json.loads(one)) for one in told]


def _joined(parts: list[Offered], rate: float) -> Offered:
    """Add up what the callers saw."""
    whole = Offered(rate, parts[0].for_s)
    for part in parts:
        whole.acknowledged_s += part.acknowledged_s
        whole.refused_s += part.refused_s
        whole.failed_s += part.failed_s
        whole.failed += Counter(part.failed)
    return whole


if __name__ == "__main__":
    sys.exit(main())
