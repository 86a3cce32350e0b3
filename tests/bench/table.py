"""The benchmark's report for people: one table, and in words what was missed."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, Results

WIDTH_MIN = 150
_NOISE_CPUS = 0.1


def print_report(results: Results, console: Console) -> None:
    """Print every figure beside its direct equivalent, and what the missed goals have to say."""
    table = Table(title="Crossfade beside its direct equivalents", title_justify="left")
    table.add_column("", min_width=44)
    table.add_column("Crossfade", justify="right", no_wrap=True)
    table.add_column("direct", justify="right", no_wrap=True)
    table.add_column("direct is", min_width=20)
    table.add_column("compared", justify="right", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    table.add_column("", no_wrap=True)
    part = ""
    for figure in results.figures:
        if figure.part != part:
            part = figure.part
            table.add_section()
        table.add_row(*_row(figure))
    console.print(table)
    missed = results.missed()
    met = sum(1 for figure in results.figures if figure.met)
    console.print(f"{met} goals met, {len(missed)} missed.")
    busiest = max(results.others.values(), default=0.0)
    if busiest > _NOISE_CPUS:
        console.print(
            f"Other processes used up to {busiest:.1f} CPUs meanwhile: latencies hold that too,"
            " on both sides."
        )
    for figure in missed:
        console.print(
            f"  missed: {figure.name}: {figure.compared or _number(figure)} ({figure.goal})"
        )


def _row(figure: Figure) -> tuple[str, ...]:
    verdict = {None: "", True: "[green]met[/green]", False: "[red]missed[/red]"}[figure.met]
    direct = "" if figure.direct is None else f"{_shown(figure.direct)} {figure.unit}"
    return (
        figure.name,
        _number(figure),
        direct,
        figure.direct_name,
        figure.compared,
        figure.goal,
        verdict,
    )


def _number(figure: Figure) -> str:
    return f"{_shown(figure.ours)} {figure.unit}".strip()


def _shown(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.2f}"
