"""Several processes and one folder: one writes, it may be killed, nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.errors import Unavailable
from proxy.model import Applied
from proxy.query import ListQuery, Projection
from proxy.stores.lancedb.folder import LOCK_FILE
from tests.doc_server import vector
from tests.lance import DIM, item, lance

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def writing_process(folder: Path, seed: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Start a process that writes the folder, and kill it in the end (kill -9)."""
    command = [sys.executable, "-m", "tests.integration.lance_process", str(folder), str(seed)]
    path = os.pathsep.join((str(ROOT), str(ROOT / "protos")))
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if line != "open":
                process.kill()
                pytest.fail(f"it did not start: {process.communicate()[1][-2000:]}")
            yield process
        finally:
            process.kill()


async def test_one_process_writes_a_folder_and_the_second_is_told_who(tmp_path: Path) -> None:
    with writing_process(tmp_path) as process:
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == process.pid
        second = lance(tmp_path)
        with pytest.raises(Unavailable) as caught:
            await second.open()
        assert f"process {process.pid}" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "there can be no second replica" in str(caught.value)
        reader = lance(tmp_path, read_only=True)
        await reader.open()
        assert await reader.check() == []
        await reader.close()
        process.kill()
        process.wait()
        await second.open()  # the lock went with the process that held it
        third = lance(tmp_path)
        with pytest.raises(Unavailable, match=f"process {os.getpid()}"):
            await third.open()
        await second.close()
        await third.open()
        await third.close()


async def test_every_acknowledged_write_survives_kill_nine(tmp_path: Path) -> None:
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for round_ in range(2):
        folder = tmp_path / str(round_)
        with writing_process(folder, seed + round_) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(rng.randrange(80, 600))]
            process.kill()
            lines += process.stdout.read().splitlines(keepends=True)  # said before it died
        store = lance(folder)
        await store.open()
        whole = Projection(vector=True)
        query = ListQuery(collection="items", limit=1000, projection=whole)
        records = await store.list_records(query, deadline_s=20)
        found = {str(record.key[0]): record for record in records}
        assert len(found) == len(records)
        for key, allowed in allowed_states(lines).items():
            number = found[key].fields["count"] if key in found else 0
            assert number in allowed, (key, number, allowed)
        for key, record in found.items():
            number = record.fields["count"]
            assert isinstance(number, int)
            assert record.vector == vector(number, DIM)
            assert record.fields["title"] == f"About {key}"
        (result,) = await store.apply([item("after")], atomic=False, deadline_s=20)
        assert result.applied is Applied.DONE
        await store.close()


def allowed_states(lines: list[str]) -> dict[str, set[int]]:
    """Return for each key what may be stored: the last acknowledged, or one that was under way."""
    allowed: dict[str, set[int]] = {}
    for line in lines:
        if not line.endswith("\n"):
            continue  # cut off by the kill
        what, key, number = line.split()
        if what == "ok":
            allowed[key] = {int(number)}
        else:
            allowed.setdefault(key, {0}).add(int(number))
    return allowed
