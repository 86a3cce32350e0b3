"""Tells a person at the terminal what happens, as it happens, and how long it took."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from proxy.model import JsonValue

_NAME_WIDTH = 17


@dataclass(slots=True)
class Narrator:
    """Prints steps to a console; a terminal also gets a line that moves while a step runs.

    Attributes:
        steps: (name, seconds) of every step that was done, in order.
    """

    console: Console
    started_s: float = field(default_factory=time.monotonic)
    counts: Mapping[str, int] = field(default_factory=dict)
    steps: list[tuple[str, float]] = field(default_factory=list)
    _status: Status | None = None
    _doing: str = ""

    def title(self, text: str) -> None:
        """Print a heading."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def fact(self, name: str, text: str) -> None:
        """Print one fact of the run."""
        self.console.print(f"  [dim]{name:<{_NAME_WIDTH}}[/dim] {escape(text)}", highlight=False)

    def warn(self, text: str) -> None:
        """Print something that is not as it should be."""
        self.console.print(f"  [yellow]![/yellow] {escape(text)}", highlight=False)

    @asynccontextmanager
    async def step(self, name: str, meaning: str) -> AsyncIterator[Callable[[str], None]]:
        """Print a step with its time once it is done; what the yielded function gets goes along."""
        began_s = time.monotonic()
        self.doing(f"{name}: {meaning}")
        notes = [meaning]
        try:
            yield notes.append
        except BaseException:
            self._line("[red]✗[/red]", name, began_s, notes)
            raise
        self.steps.append((name, time.monotonic() - began_s))
        self._line("[green]✓[/green]", name, began_s, notes)

    def doing(self, text: str) -> None:
        """Show what runs now, with the counts of the live clients."""
        self._doing = text
        self._show()

    def heard(self, counts: Mapping[str, int]) -> None:
        """Take the latest counts of the live clients."""
        self.counts = counts
        self._show()

    def hush(self) -> None:
        """Take the moving line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; a column is set to the right if its first cell is a number."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
        for position, column in enumerate(columns):
            number = bool(rows) and rows[0][position][:1].isdigit()
            table.add_column(
                column,
                justify="right" if number else "left",
                overflow="fold",
                no_wrap=position > 0,  # the first one, which names things, makes room for the rest
            )
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(table)

    def _line(self, mark: str, name: str, began_s: float, notes: Sequence[str]) -> None:
        now_s = time.monotonic()
        at, took = f"{now_s - self.started_s:6.1f} s", f"{now_s - began_s:6.2f} s"
        text = escape("; ".join(note for note in notes if note))
        self.console.print(
            f"[dim]{at}[/dim] {mark} {name:<{_NAME_WIDTH}} [dim]{took}[/dim]  {text}",
            highlight=False,
        )

    def _show(self) -> None:
        if not self.console.is_terminal:
            return
        live = ", ".join(f"{value:,} {name}" for name, value in self.counts.items())
        text = escape(self._doing) + (f"  [dim]live: {live}[/dim]" if live else "")
        if self._status is None:
            self._status = self.console.status(text)
            self._status.start()
        else:
            self._status.update(text)


def told(summary: Mapping[str, JsonValue]) -> str:
    """Return the gist of a job's summary in a few words."""
    if "matched" in summary:
        names = ("mismatched", "missing", "extra", "in_flight")
        found = [f"{summary[name]} {name.replace('_', ' ')}" for name in names if summary.get(name)]
        return ", ".join([f"{summary['matched']} rows equal", *(found or ["none differs"])])
    return f"{summary.get('rows')} rows copied"
