"""A plain script to compare with, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass

from proxy.demo.processes import environment
from proxy.errors import CrossfadeError

_SCRIPT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptDone:
    """What a script says of itself: rows that are there now, and how long it took."""

    rows: int
    seconds: float


async def run_script(module: str, *arguments: str) -> ScriptDone:
    """Run a script that copies rows to its end.

    Raises:
        CrossfadeError: it failed.
        TimeoutError: it took too long, and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        async with asyncio.timeout(_SCRIPT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CrossfadeError(f"{module} ended with {process.returncode}.")
    told = json.loads(output)
    return ScriptDone(rows=int(told["rows"]), seconds=float(told["seconds"]))
