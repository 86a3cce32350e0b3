"""Jobs of a proxy that reconciles itself: the commands ask it, watch it, and end as ever."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crossfade.client import AsyncClient
from typer.testing import CliRunner

from proxy.cli.main import app
from tests.integration.test_cli import logs_as_they_were

__all__ = ["logs_as_they_were"]

DOCUMENTS = 300
_ADDRESS = "127.0.0.1:{port}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Site:
    """A configuration over memory stores, whose only life is in the proxy's process."""

    def __init__(self, folder: Path, **reconcile: Any) -> None:
        self.address = _ADDRESS.format(port=free_port())
        self.config = folder / "crossfade.yaml"
        text = {
            "migration": "docs",
            "preset": "doc-server",
            "listen": {"address": self.address, "metrics": ""},
            "old": {"engine": "memory"},
            "new": {"engine": "memory"},
            "ledger": {"engine": "memory"},
            "reconcile": {"in_proxy": "always", "batch_rows": 10, **reconcile},
        }
        self.config.write_text(json.dumps(text))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "proxy.cli.main", *arguments, "--config", str(self.config)]

    def run(self, *arguments: str, expect: int = 0) -> Any:
        done = CliRunner().invoke(
            app, [*arguments, "--config", str(self.config)], env={"COLUMNS": "200"}
        )
        assert done.exit_code == expect, f"{done.exit_code}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, expect: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", expect=expect).stdout)

    def ask(self, *arguments: str, expect: int = 0) -> Any:
        """Run a command that talks to the proxy by its address."""
        done = CliRunner().invoke(app, [*arguments, "--address", self.address, "--json"])
        assert done.exit_code == expect, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    process = subprocess.Popen(
        made.command("serve", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), process.communicate(timeout=10)
        asyncio.run(fill(made.address))
        made.ask("phase", "dual_write", "--reason", "test")
        yield made
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def fill(address: str) -> None:
    """Write documents while only the old store is written."""
    async with AsyncClient(address) as client:
        await client.upsert("sources", ("rust", "serde"), {"version": "1"})
        for number in range(DOCUMENTS):
            await client.upsert(
                "documents", ("rust", "serde", f"{number:04d}"), {"content": f"About {number}"}
            )


def test_backfill_verify_and_repair_run_in_the_proxy(site: Site) -> None:
    dry = site.run("backfill", "--dry-run")
    assert "copied" in dry.stdout
    done = site.run("backfill")
    assert f"runs in the proxy at {site.address}" in done.stderr
    assert "next: crossfade verify" in done.stdout
    verified = site.json("verify")
    assert verified["summary"]["matched"] == DOCUMENTS + 1
    assert site.json("repair")["state"] == "done"
    kinds = [job["kind"] for job in site.ask("job")]
    assert kinds == ["repair", "verify", "backfill", "backfill"]


def test_ctrl_c_pauses_the_job_and_the_same_command_goes_on(site: Site) -> None:
    slow = site.command("backfill", "--rows-per-s", "5", "--json")
    with subprocess.Popen(
        slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "runs in the proxy" in line:
                break
        process.send_signal(signal.SIGINT)
        told, noted = process.communicate(timeout=20)
    assert process.returncode == 130, noted
    assert "keeps its place" in noted
    paused = json.loads(told)
    assert paused["state"] == "paused"
    other = site.run("backfill", expect=1)
    assert "is paused" in other.stderr
    site.ask("job", "resume", str(paused["job_id"]))
    site.ask("job", "cancel", str(paused["job_id"]))
    assert site.json("backfill")["state"] == "done"


def test_what_is_wrong_is_told_as_it_is_here(site: Site) -> None:
    assert "nothing" in site.run("backfill", "--collection", "nothing", expect=2).stderr
    assert site.json("verify", expect=1)["summary"]["missing"] == DOCUMENTS + 1


def test_another_migrations_proxy_is_not_asked(site: Site) -> None:
    site.config.write_text(site.config.read_text().replace('"docs"', '"other"'))
    assert "serves docs, not other" in site.run("backfill", expect=1).stderr


def test_without_a_proxy_the_job_runs_here(tmp_path: Path) -> None:
    done = Site(tmp_path).run("backfill", expect=1)
    assert "runs in the proxy" not in done.stderr
    assert "old_only" in done.stdout
