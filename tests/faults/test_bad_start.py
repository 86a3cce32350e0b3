"""What a start with something wrong looks like: the exit code, every name, and no stack trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.ledger.postgres.database import SCHEMA_VERSION
from tests.faults.harness.databases import execute
from tests.faults.harness.scene import Scene

pytestmark = pytest.mark.faults

BROKEN = """\
version: 1
migration: Not A Name
preset: doc-server
listen: {address: "nowhere"}
old: {engine: postgresql, dsn: "host=/tmp dbname=x", pool_size_min: 9, pool_size_max: 3}
new: {engine: oracle, dsn: "y"}
ledger: {dsn: "host=/tmp dbname=z", lease_s: 0.1}
writes: {acknowledge: both}
collections:
  documents: {vector: {dim: -1}}
"""


async def refused(scene: Scene, config: Path, command: str = "serve") -> tuple[int, str]:
    """Run a command that must end by itself; return its exit code and standard error."""
    code, output, errors = await scene.command(command, "--config", str(config))
    assert "Traceback" not in errors + output
    assert output == ""
    return code, errors


async def test_a_bad_configuration_tells_every_error_with_file_and_line(
    scene: Scene, tmp_path: Path
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN, encoding="utf-8")
    code, errors = await refused(scene, file)
    assert code == 2
    for line, name in {
        2: "migration",
        4: "listen.address",
        5: "old.pool_size_min",
        6: "new.engine",
        7: "ledger.lease_s",
        8: "writes.acknowledge",
        10: "documents",
    }.items():
        assert f"broken.yaml:{line} (" in errors, f"{name}: {errors}"


@pytest.mark.parametrize(
    ("side", "damage", "named"),
    [
        ("old", "DROP TABLE population_jobs", "population_jobs"),
        ("old", "ALTER TABLE doc_embeddings DROP COLUMN token_count", "token_count"),
        ("new", "DROP TABLE documents", "documents"),
        ("new", "ALTER TABLE document_sources DROP COLUMN config", "config"),
        ("new", "ALTER TABLE documents ALTER COLUMN embedding TYPE vector(9)", "embedding"),
    ],
)
async def test_a_missing_table_or_column_is_named_and_ends_the_start(
    scene: Scene, side: str, damage: str, named: str
) -> None:
    execute(scene.dbs.dsn(side), damage)
    code, errors = await refused(scene, scene.config())
    assert code == 2
    assert f"{side}: " in errors
    assert named in errors


async def test_everything_that_is_missing_in_both_stores_is_told_at_once(scene: Scene) -> None:
    execute(scene.dbs.old, "DROP TABLE population_jobs")
    execute(scene.dbs.new, "ALTER TABLE documents DROP COLUMN content")
    code, errors = await refused(scene, scene.config())
    assert code == 2
    assert "population_jobs" in errors
    assert "content" in errors


@pytest.mark.parametrize("command", ["serve", "reconcile"])
async def test_a_ledger_of_another_version_is_refused_with_both_versions(
    scene: Scene, command: str
) -> None:
    replica = await scene.serve("first")
    await replica.process.stop()
    execute(scene.dbs.ledger, "UPDATE crossfade.schema_version SET version = 99")
    code, errors = await refused(scene, scene.config(), command)
    assert code == 1
    assert "version [99]" in errors
    assert f"needs [{SCHEMA_VERSION}]" in errors


async def test_an_address_that_others_reach_needs_tls_or_insecure(scene: Scene) -> None:
    listen = {"listen": {"address": "0.0.0.0:0"}}
    code, errors = await refused(scene, scene.config(listen))
    assert code == 2
    assert "no TLS" in errors
    assert "--insecure" in errors
    arguments = ["serve", "--config", str(scene.config(listen)), "--json", "--insecure"]
    process = await scene.household.start("insecure", arguments)
    await process.ready()
    assert await process.stop() == 0


async def test_a_ledger_that_does_not_answer_ends_the_start_with_3(scene: Scene) -> None:
    relay = await scene.relay("ledger")
    await relay.refuse()
    code, errors = await refused(scene, scene.config())
    assert code == 3
    assert "ledger" in errors
