"""Run the soak: python -m tests.faults.soak --minutes 10. Prints its seed, and what it has seen."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

import psycopg
from crossfade.client.errors import CallError

from tests.faults.harness.servers import own_server
from tests.faults.harness.trial import PAIRS
from tests.faults.soak.rounds import Soak


def main() -> int:
    """Soak each pair of engines for its share of the time; return 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all pairs together")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    # Told to end, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = random.randrange(2**32) if options.seed is None else options.seed
    os.environ["CROSSFADE_SEED"] = str(seed)
    failed = 0
    for engines in PAIRS:
        print(f"== {engines[0]} to {engines[1]}, seed {seed}", flush=True)
        with own_server() as server, tempfile.TemporaryDirectory(prefix="crossfade-soak-") as name:
            soak = Soak(engines, server, Path(name), options.minutes * 60 / len(PAIRS))
            try:
                asyncio.run(soak.run())
            except* (AssertionError, OSError, psycopg.Error, CallError) as errors:
                failed = 1
                for error in errors.exceptions:
                    print(f"FAILED (seed {seed}): {error}", file=sys.stderr, flush=True)
        print(soak.summary(), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
