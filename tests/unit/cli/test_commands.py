"""The command line as a person meets it: help, mistakes, exit codes, JSON; never a stack trace."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from crossfade.client import control_types as there
from typer.testing import CliRunner, Result

from proxy.cli import demo as commands_demo
from proxy.cli import job as commands_job
from proxy.cli import phase as commands_phase
from proxy.cli import traffic as commands_traffic
from proxy.cli.exits import EXIT_HELP, ExitCode, exit_code
from proxy.cli.main import app, reflowed
from proxy.cli.session import only_error
from proxy.errors import (
    Ambiguous,
    ConfigInvalid,
    Corrupt,
    CrossfadeError,
    Reason,
    Rejected,
    Unavailable,
)

COMMANDS = (
    "status", "plan", "report", "serve", "reconcile", "demo", "phase", "traffic",
    "backfill", "verify", "repair", "job",
)  # fmt: skip  # a list of words
BROKEN = "migration: Docs\nprest: doc-server\nold: {engine: memory}\n"

MEMORY = """
migration: docs
preset: doc-server
listen: {{address: "{listen}", metrics: ""}}
old: {{engine: memory}}
new: {{engine: memory}}
ledger: {{engine: memory}}
"""


def crossfade(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "CROSSFADE_DEBUG": ""})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_teaches_with_examples_and_exit_codes(command: str) -> None:
    result = crossfade(command, "--help")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert "Examples" in text
    assert f"crossfade {command}" in text
    assert "--json" in text
    assert "Exit codes: 0 done" in text
    assert "[bold]" not in text


def test_the_help_lists_every_command_and_says_what_a_migration_is() -> None:
    result = crossfade("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f" {command} " in result.output
    assert "phase dual_write, backfill, verify" in result.output
    assert crossfade().exit_code == 2
    assert crossfade("--version").output.startswith("crossfade 0.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serv"], "No such command 'serv'"),
        (["phase", "ramb"], "'ramb' is not one of"),
        (["traffic", "101"], "less than or equal to 100"),
        (["verify", "--colection", "x"], "No such option"),
        (["demo", "--replicas", "9"], "less than or equal to 4"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(arguments: list[str], expected: str) -> None:
    result = crossfade(*arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["plan", "backfill", "verify", "repair", "reconcile", "serve"])
def test_a_bad_configuration_ends_with_2_and_names_every_line(command: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(BROKEN)
    result = crossfade(command, "--config", str(file))
    assert result.exit_code == 2
    for expected in ("c.yaml:1 (migration)", "c.yaml:2 (prest): expected a known key", "(ledger)"):
        assert expected in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_with_json_an_error_is_one_document_on_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(BROKEN)
    result = crossfade("plan", "--config", str(file), "--json")
    document = json.loads(result.stdout)
    assert document["error"]["exit_code"] == result.exit_code == 2
    assert document["error"]["kind"] == "ConfigInvalid"
    assert any("(prest)" in item["where"] for item in document["error"]["violations"])


def test_a_missing_configuration_is_named() -> None:
    result = crossfade("verify", "--config", "/nowhere/c.yaml")
    assert result.exit_code == 2
    assert "cannot read /nowhere/c.yaml: No such file" in result.stderr
    assert "--config or CROSSFADE_CONFIG" in result.stderr
    assert "crossfade plan --example" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["phase"], ["traffic", "5"], ["report"], ["job"], ["job", "watch", "1"]],
)
def test_without_a_proxy_a_command_ends_with_3_and_says_what_to_do(arguments: list[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    result = crossfade(*arguments, "--address", address)
    assert result.exit_code == 3
    assert f"No proxy answers at {address}" in result.stderr
    assert "crossfade serve" in result.stderr
    assert "Traceback" not in result.output


def test_a_command_asks_the_proxy_of_the_configuration_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CROSSFADE_CONFIG", "CROSSFADE_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    ours, other = (f"127.0.0.1:{free_port()}" for _ in range(2))
    # Whoever commands a proxy need not know the stores' secrets.
    text = f'migration: docs\nold: {{dsn: "${{NOBODY_SETS_IT}}"}}\nlisten: {{address: "{ours}"}}\n'
    named = tmp_path / "mine.yaml"
    named.write_text(text)
    assert ours in crossfade("status", "--config", str(named)).stderr
    assert other in crossfade("status", "--config", str(named), "--address", other).stderr
    named.rename("crossfade.yaml")
    for command in (["status"], ["phase"], ["traffic"], ["report"], ["job"]):
        assert f"No proxy answers at {ours}" in crossfade(*command).stderr


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("{address: 127.0.0.1:0}", "name it with --address"),
        ("{adress: 127.0.0.1:1}", "(listen.adress): expected a known key"),
        ("${NOBODY_SETS_IT}", "(listen): expected an environment variable NOBODY_SETS_IT"),
    ],
)
def test_a_configuration_that_does_not_say_where_the_proxy_is_ends_with_2(
    tmp_path: Path, listen: str, expected: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"listen: {listen}\n")
    result = crossfade("status", "--config", str(file))
    assert result.exit_code == 2
    assert expected in result.stderr


def test_debug_shows_the_stack_trace(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--debug", "plan", "--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "FileNotFoundError" in result.stderr


def test_health_of_nobody_ends_with_3_and_names_the_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    result = crossfade("status", "--health", "--json", "--address", address)
    assert result.exit_code == 3
    assert f"No proxy answers at {address}" in json.loads(result.stdout)["error"]["message"]


def test_a_report_is_written_as_a_page_or_as_json_and_as_nothing_else() -> None:
    result = crossfade("report", "--out", "report.txt", "--address", f"127.0.0.1:{free_port()}")
    assert result.exit_code == 2
    assert "--out: expected a file name that ends in .html or .json" in result.stderr


@pytest.mark.parametrize(
    ("preset", "missing", "extras"),
    [
        ("doc-server", "psutil", ".[demo]"),
        ("work-items", "lancedb", ".[demo,lancedb,embedder]"),
    ],
)
def test_a_demo_whose_packages_are_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, preset: str, missing: str, extras: str
) -> None:
    def find(name: str) -> object:
        return None if name == missing else object()

    monkeypatch.setattr(commands_demo, "find_spec", find)
    result = crossfade("demo", "--preset", preset)
    assert result.exit_code == 2
    assert f"needs {missing}: pip install '{extras}'" in result.stderr


def test_a_tls_file_that_cannot_be_read_is_named() -> None:
    result = crossfade("status", "--tls-ca", "/nowhere/ca.pem")
    assert result.exit_code == 2
    assert "cannot read /nowhere/ca.pem" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["phase", "ramp", "--force"], "A forced change needs a reason"),
        (["traffic", "5", "--force"], "A forced change needs a reason"),
        (["job", "pause"], "the number of a job for `crossfade job pause`"),
        (["job", "verify", "3"], "no number for `crossfade job verify`"),
        (["job", "verify", "--param", "continuous"], "--param: expected NAME=VALUE"),
    ],
)
def test_an_incomplete_command_ends_with_2_before_anybody_is_asked(
    arguments: list[str], expected: str
) -> None:
    result = crossfade(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr


def test_plan_prints_what_to_start_from() -> None:
    assert "preset: doc-server" in crossfade("plan", "--example").stdout
    assert '# Preset "doc-server"' in crossfade("plan", "--preset", "doc-server").stdout
    result = crossfade("plan", "--preset", "doc-servr")
    assert result.exit_code == 2
    assert 'did you mean "doc-server"' in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("x"), ExitCode.UNAVAILABLE),
        (Ambiguous("x"), ExitCode.UNAVAILABLE),
        (ConfigInvalid("x", ()), ExitCode.USAGE),
        (Rejected("x"), ExitCode.USAGE),
        (Rejected("x", reason=Reason.NOT_FOUND), ExitCode.USAGE),
        (Rejected("x", reason=Reason.FAILED_PRECONDITION), ExitCode.NO),
        (Corrupt("x"), ExitCode.NO),
        (CrossfadeError("x"), ExitCode.NO),
    ],
)
def test_each_error_has_its_exit_code(error: CrossfadeError, code: ExitCode) -> None:
    assert exit_code(error) is code
    assert f"{code.value} " in EXIT_HELP


def test_a_group_of_errors_is_reported_by_its_first_one_unless_it_holds_a_defect() -> None:
    ours = Rejected("the address is taken")
    assert only_error(ours) is ours
    assert only_error(ExceptionGroup("g", [ExceptionGroup("h", [ours])])) is ours
    assert only_error(ExceptionGroup("g", [ours, KeyError("defect")])) is None


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("0.0.0.0:0", "there is no TLS"), ("127.0.0.1:{taken}", "Cannot listen on 127.0.0.1:{taken}")],
)
def test_an_address_that_cannot_be_served_is_one_clear_message(
    listen: str, expected: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        file = tmp_path / "c.yaml"
        file.write_text(MEMORY.format(listen=listen.format(taken=taken)))
        done = subprocess.run(
            [sys.executable, "-m", "proxy.cli.main", "serve", "-c", str(file)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 2
    assert expected.format(taken=taken) in done.stderr
    assert "Traceback" not in done.stderr


class Ended:
    """The control plane of a migration that has ended; it can be asked for its status alone."""

    async def status(self) -> SimpleNamespace:
        """Return what a command looks at."""
        routing = there.Routing(
            epoch=9, phase=there.Phase.NEW_ONLY, primary="new", traffic_percent=100, hold=False
        )
        return SimpleNamespace(migration="theirs", routing=routing)


@asynccontextmanager
async def ended(_target: object) -> AsyncIterator[Ended]:
    yield Ended()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (commands_phase, ["phase", "shadow"]),
        (commands_phase, ["phase"]),
        (commands_traffic, ["traffic", "50"]),
        (commands_job, ["job", "verify"]),
        (commands_job, ["job", "cancel", "1"]),
    ],
)
def test_no_command_changes_the_migration_of_somebody_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: ModuleType, arguments: list[str]
) -> None:
    monkeypatch.setattr(module, "control", ended)
    monkeypatch.delenv("CROSSFADE_ADDRESS", raising=False)
    file = tmp_path / "c.yaml"
    file.write_text("migration: ours\n")
    result = crossfade(*arguments, "--config", str(file))
    assert result.exit_code == 1
    assert "The proxy at 127.0.0.1:50051 serves theirs, not ours." in result.stderr


def test_after_the_last_phase_there_is_no_next_step_and_nothing_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands_phase, "control", ended)
    result = crossfade("phase", "--address", "127.0.0.1:1")
    assert result.exit_code == 0
    assert "The migration has ended: there is no next step." in result.output


def test_paragraphs_of_help_are_joined_and_examples_stay_as_they_are() -> None:
    assert reflowed("One\ntwo.\n\n  crossfade x\n\nThree\nfour.") == (
        "One two.\n\n  crossfade x\n\nThree four."
    )


def test_help_starts_fast_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from proxy.cli.main import app; import typer.testing;"
        "typer.testing.CliRunner().invoke(app, ['--help']);"
        "heavy = {'grpc', 'psycopg', 'opentelemetry', 'pydantic', 'numpy', 'yaml'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    print(f"help took {time.perf_counter() - started:.2f} s")
    assert done.stdout.strip() == "[]"
