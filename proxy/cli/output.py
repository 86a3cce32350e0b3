"""What a command prints: tables for people, one JSON document for programs, errors on stderr."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from proxy.errors import ConfigInvalid, CrossfadeError, Rejected

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {True: "[green]yes[/green]", False: "[red]no[/red]"}


def plain(value: object) -> object:
    """Return dataclasses, enums, dates and tuples as what JSON knows."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


@dataclass(slots=True)
class Output:
    """Where one command's answer goes."""

    as_json: bool = False

    @property
    def console(self) -> Console:
        """Standard output, for people."""
        from rich.console import Console

        return Console(highlight=False, soft_wrap=True)

    def json(self, value: object) -> None:
        """Print one JSON document."""
        sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def line(self, value: object) -> None:
        """Print one JSON document on one line (a stream of them)."""
        sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print a line for people; nothing with --json."""
        if not self.as_json:
            self.console.print(text)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table for people. A column whose name begins with > is right-aligned."""
        from rich.table import Table

        found = list(rows)
        if self.as_json:
            return
        if not found:
            self.console.print(f"[bold]{title}[/bold]: none" if title else "none")
            return
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        for name in columns:
            right = name.startswith(">")
            table.add_column(name.lstrip(">"), justify="right" if right else "left")
        for row in found:
            table.add_row(*(cell(value) for value in row))
        self.console.print(table)
        self.console.print()

    def note(self, text: str) -> None:
        """Print a line on standard error, with --json too."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def cell(value: object) -> str:
    """Return a table cell."""
    if isinstance(value, bool):
        return MARKS[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)


def escaped(text: str) -> str:
    """Return a text from elsewhere so that rich does not take brackets in it for markup."""
    from rich.markup import escape

    return escape(text)


def error_document(error: CrossfadeError, code: int) -> dict[str, object]:
    """Return an error as --json prints it."""
    violations = error.violations if isinstance(error, Rejected | ConfigInvalid) else ()
    return {
        "error": {
            "kind": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "violations": [plain(item) for item in violations],
            "exit_code": code,
        }
    }


def error_text(error: CrossfadeError) -> str:
    """Return an error for a person: what was wrong, each violation, what to do."""
    lines = [f"error: {error.message}"]
    if isinstance(error, Rejected):
        lines += [f"  {violation}" for violation in error.violations]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return "\n".join(lines)
