"""The command line against real databases and a real proxy process: one migration, step by step."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from typer.testing import CliRunner

from proxy.cli.main import app
from tests.doc_server import create_tables

DOCUMENTS = 60
START_S_MAX = 10.0
"""Generous, for a loaded machine; `make bench` measures the goal of two seconds."""


@dataclass(frozen=True)
class Site:
    """A configuration file over two databases and a ledger."""

    config: Path
    old: str
    new: str

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run a command that needs the configuration; return its standard output."""
        return crossfade(*arguments, "--config", str(self.config), expect=expect)

    def json(self, *arguments: str, expect: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", expect=expect))


def crossfade(*arguments: str, expect: int = 0) -> str:
    """Run the command in this process (its imports are paid once); return standard output."""
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})
    told = f"{arguments}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
    assert done.exit_code == expect, told
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Commands configure the logs of their process, which here is the test's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def load_old(dsn: str) -> None:
    """Put one crate with documents there, as the old application would have."""
    execute(
        dsn,
        f"INSERT INTO crates (name, version, total_docs) VALUES ('serde', '1.0', {DOCUMENTS})",
        "INSERT INTO doc_embeddings (crate_id, crate_name, doc_path, content, embedding)"
        " SELECT c.id, c.name, 'serde/' || n, 'About ' || n,"
        " (SELECT array_agg(sin(n * 3072 + i)) FROM generate_series(1, 3072) i)::vector"
        f" FROM crates c, generate_series(1, {DOCUMENTS}) n",
    )


@pytest.fixture
def site(new_database: Callable[[], str], tmp_path: Path) -> Site:
    old, new, ledger = new_database(), new_database(), new_database()
    create_tables(old, "old")
    create_tables(new, "new")
    load_old(old)
    config = tmp_path / "crossfade.yaml"
    text = {
        "migration": "docs",
        "preset": "doc-server",
        "listen": {"address": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "old": {"engine": "postgresql", "dsn": old},
        "new": {"engine": "postgresql", "dsn": new},
        "ledger": {"dsn": ledger},
    }
    config.write_text(json.dumps(text))  # JSON is YAML
    return Site(config=config, old=old, new=new)


@contextmanager
def proxy(site: Site) -> Iterator[str]:
    """Serve; yields the address. Stopped by SIGTERM, which must end it with 0."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(site.config), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        took_s = time.perf_counter() - started
        assert line, process.communicate(timeout=10)
        print(f"serving after {took_s:.2f} s")
        assert took_s < START_S_MAX
        yield json.loads(line)["address"]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_plan_shows_what_a_migration_would_do_and_finds_no_problem(site: Site) -> None:
    text = site.run("plan")
    assert "no problems" in text
    assert "next: crossfade phase dual_write" in text
    found = site.json("plan")
    documents = found["plan"]["collections"]["documents"]
    assert documents["path"] == "bulk"
    assert documents["secondary_only"] == ["metadata"]
    assert found["plan"]["indexes_to_build"] == [
        "documents_embedding_hnsw",
        "crossfade_documents_words",
    ]
    assert found["searches"]["documents"] == {
        "modes": ["vector", "keyword", "hybrid"],
        "keyword_fields": ["content"],
        "models": [],
    }
    assert "vector, keyword, hybrid" in text
    assert found["phase"] == "old_only"
    assert {"collection": "sources", "field": "enabled", "store": "new"} in found[
        "one_sided_fields"
    ]


def test_plan_names_a_missing_table_and_column_and_ends_with_1(site: Site) -> None:
    execute(site.new, "DROP TABLE document_sources", "ALTER TABLE documents DROP COLUMN metadata")
    text = site.run("plan", expect=1)
    assert "document_sources" in text
    assert "metadata" in text


def test_plan_names_everything_that_does_not_answer_and_ends_with_3(site: Site) -> None:
    text = json.loads(site.config.read_text())
    for part in ("old", "ledger"):
        text[part]["dsn"] = "postgresql://u:hunter2@127.0.0.1:9/nowhere"
    site.config.write_text(json.dumps(text))
    found = site.json("plan", expect=3)
    assert found["unreachable"] == ["old", "ledger"]
    assert "hunter2" not in json.dumps(found)


def test_a_job_in_the_wrong_phase_ends_with_1_and_says_what_to_do(site: Site) -> None:
    assert "crossfade phase dual_write" in site.run("backfill", expect=1)


def test_a_whole_migration_by_commands(site: Site) -> None:
    trial = site.json("backfill", "--dry-run", "--full")["summary"]
    assert (trial["unconvertible"], trial["collections"]["documents"]["checked"]) == (0, DOCUMENTS)
    with proxy(site) as address:
        at = ("--address", address)
        assert "serving" in crossfade("status", "--health", *at)
        assert "would change" in crossfade("phase", *at).lower()
        crossfade("phase", "shadow", "--reason", "too early", *at, expect=1)
        crossfade("phase", "dual_write", "--reason", "start", *at)
        crossfade("traffic", "5", *at, expect=1)
        assert site.json("backfill")["summary"]["collections"]["documents"]["rows"] == DOCUMENTS
        assert "both stores are equal" in site.run("verify")
        _damage_and_repair(site)
        crossfade("phase", "shadow", "--reason", "compare", *at)
        crossfade("job", "verify", *at)
        jobs = json.loads(crossfade("job", "--json", *at))
        assert jobs[0]["kind"] == "verify"
        crossfade("job", "cancel", str(jobs[0]["job_id"]), *at)
        report = site.config.parent / "report.html"
        crossfade("report", "--out", str(report), "--events", "50", *at, expect=1)
        assert report.read_text().lower().startswith("<!doctype html")
        status = json.loads(crossfade("status", "--json", *at))
        assert status["routing"]["phase"] == "shadow"
        assert status["indexes"][0]["ready"]
        events = json.loads(crossfade("report", "--json", "--events", "100", *at, expect=1))[
            "events"
        ]
        assert any(event["reason"] == "start" for event in events)


def _damage_and_repair(site: Site) -> None:
    """Spoil rows behind the proxy's back: verify must name them, repair must mend them."""
    execute(
        site.new,
        "UPDATE documents SET content = 'spoilt' WHERE doc_path = 'serde/7'",
        "DELETE FROM documents WHERE doc_path = 'serde/8'",
    )
    text = site.run("verify", "--report-only", expect=1)
    assert "serde/7" in text
    assert "'spoilt'" in text
    assert "2 records differ; not queued" in text
    summary = site.json("verify", expect=1)["summary"]
    assert (summary["mismatched"], summary["missing"], summary["extra"]) == (1, 1, 0)
    assert "2 records were being written, or wait for repair" in site.run("verify")
    assert site.json("repair")["summary"]["repaired"] == 2
    assert "both stores are equal" in site.run("verify")


def test_an_interrupted_backfill_ends_with_130_and_the_next_one_goes_on(site: Site) -> None:
    text = json.loads(site.config.read_text())
    text["reconcile"] = {"batch_rows": 5}
    site.config.write_text(json.dumps(text))
    with proxy(site) as address:
        crossfade("phase", "dual_write", "--reason", "start", "--address", address)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "proxy.cli.main", "backfill", "--rows-per-s", "20", "--json"),
            *("--config", str(site.config)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_rows(site.new)
    process.send_signal(signal.SIGINT)
    answer, log = process.communicate(timeout=20)
    assert process.returncode == 130, log
    assert "goes on from there" in log
    first = json.loads(answer)
    assert 0 < first["summary"]["rows"] < DOCUMENTS
    second = site.json("backfill", "--rows-per-s", "20")
    assert (second["job_id"], second["state"]) == (first["job_id"], "done")
    assert second["summary"]["collections"]["documents"]["rows_total"] == DOCUMENTS
    assert "both stores are equal" in site.run("verify")


def _wait_for_rows(dsn: str) -> None:
    """Return once documents have arrived."""
    until = time.monotonic() + 30
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < until:
            (count,) = connection.execute("SELECT count(*) FROM documents").fetchone() or (0,)
            if count:
                return
            time.sleep(0.02)
    raise AssertionError("no document arrived")


def test_ctrl_c_ends_a_running_reconciler_in_order(site: Site) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "proxy.cli.main", "reconcile"),
            *("--config", str(site.config), "--json", "--metrics", "127.0.0.1:0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "ready"
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "Traceback" not in log
