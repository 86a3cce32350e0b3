"""`crossfade demo`: a whole migration under live traffic, on stores of its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.exits import ExitCode
from proxy.cli.session import JsonOption, begin, finish, run
from proxy.errors import ConfigInvalid

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="Which migration: doc-server (PostgreSQL to PostgreSQL) or work-items (PostgreSQL to"
        " LanceDB, vectors made by the proxy).",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory of report.json and report.html.")]
CorpusOption = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        help="The data: a parquet file of documents, or JSON lines of work items. Default:"
        " ../shared/data if it is there, else the documentation strings of this Python.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Of every random choice; printed and reported.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="A small corpus and short phases.")]
ReplicasOption = Annotated[
    int | None,
    typer.Option(
        "--replicas",
        min=1,
        max=4,
        help="Proxy processes. Default: 2, and 1 for work-items: LanceDB has one writing process.",
        show_default=False,
    ),
]
DamageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--damage",
        metavar="KIND",
        help="Spoil a row behind the proxy's back (changed, removed or added; may be given"
        " again). The run must then fail and name it.",
        show_default=False,
    ),
]

_NEEDED = {
    "demo": ("psutil", "pyarrow"),
    "lancedb": ("lancedb",),
    "embedder": ("sentence_transformers", "torch"),
}
"""What each extra of ours brings that the demo cannot do without."""


def require_packages(preset: str) -> None:
    """Check that the extras of this demo are installed.

    Raises:
        ConfigInvalid: one is not; it says what to install.
    """
    extras = ("demo", "lancedb", "embedder") if preset == "work-items" else ("demo",)
    missing = [name for extra in extras for name in _NEEDED[extra] if find_spec(name) is None]
    if missing:
        raise ConfigInvalid(
            f"The demo needs {', '.join(missing)}: pip install '.[{','.join(extras)}]' in a clone,"
            " or `make demo`, which installs all it needs.",
            (),
        )


def demo(
    ctx: typer.Context,
    *,
    preset: PresetOption = "doc-server",
    out: OutOption = Path("demo-report"),
    corpus: CorpusOption = None,
    seed: SeedOption = None,
    quick: QuickOption = False,
    replicas: ReplicasOption = None,
    damage: DamageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk a live PostgreSQL through the whole migration, with clients at work all the time.

    It starts a real PostgreSQL 18 with pgvector (or uses CROSSFADE_DSN), loads the old store,
    starts the proxy, keeps clients writing, deleting, reading and searching, and goes old_only ->
    dual_write -> backfill -> verify -> shadow -> ramp -> cutover -> rollback -> cutover. At the end
    it checks both stores row by row, by itself, and leaves no process behind.

    Exit code 1 if anything was lost, differs, failed or took too long.

    [bold]Examples[/bold]

      crossfade demo

      crossfade demo --preset work-items

      crossfade demo --quick --out /tmp/report

      crossfade demo --quick --damage changed --damage removed     (ends with 1 and names the rows)
    """
    require_packages(preset)
    from proxy.demo.options import DemoOptions
    from proxy.demo.run import run as run_demo

    output = begin(ctx, as_json)
    options = DemoOptions(
        preset=preset,
        out=out,
        corpus=corpus,
        seed=seed,
        quick=quick,
        damage=tuple(damage or ()),
        replicas=replicas,
    )
    finish(ExitCode(run(run_demo(options, as_json=output.as_json))))
