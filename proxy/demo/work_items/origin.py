"""Where work items come from: a file of them, or this Python's documentation read as a plan."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proxy.demo.harvest import Text, harvest, source_version
from proxy.errors import Reason, Rejected, Violation

_FOLDER = Path("shared") / "data"
_FILE = "work_items.jsonl"
_NAMESPACE = uuid.UUID("6f2c6f0e-6e0c-5a53-9d3c-3f7a0d1c9b52")
_HARVESTED = 1000
_DESCRIPTION_MAX = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Seedling:
    """What a source says of an item; everything else is made up.

    Attributes:
        parent: the id of the item above, "" for none.
    """

    id: str
    title: str
    description: str | None
    kind: str
    parent: str = ""
    dependencies: Sequence[str] = ()
    tags: Sequence[str] = ()
    notes: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Items and a sentence that says where they came from."""

    source: str
    seedlings: Sequence[Seedling]


def find_origin(file: Path | None, *, start: Path | None = None) -> Origin:
    """Read `file`, or the shared data beside the repository, or the documentation of this Python.

    Args:
        file: one JSON object a line, with item_id and title at least; None to look for one.
        start: where to look from, None for the current directory.

    Raises:
        Rejected: the file is not there or a line of it cannot be used.
    """
    found = file or _find(start or Path.cwd())
    if found is None:
        where = f"documentation strings of Python {source_version()}"
        return Origin(source=where, seedlings=planned(harvest(), _HARVESTED))
    if not found.is_file():
        raise Rejected(
            f"There is no corpus file {found}.", hint="Give a file of JSON lines to --corpus."
        )
    return Origin(source=str(found), seedlings=_read(found))


def planned(texts: Sequence[Text], limit: int) -> list[Seedling]:
    """Read documentation as a plan: modules are epics, classes features, functions tasks.

    Whole modules are taken, at even steps, until there are about `limit` items. An item depends
    on the one before it under the same parent.
    """
    pages: dict[str, list[Text]] = {}
    for text in texts:
        pages.setdefault(f"{text.source}:{text.path.partition('#')[0]}", []).append(text)
    chosen: list[list[Text]] = []
    step = max(1, len(texts) // limit)
    for offset in range(step):
        for page in list(pages.values())[offset::step]:
            if sum(map(len, chosen)) < limit:
                chosen.append(page)
    return [seedling for page in chosen for seedling in _plan(page)]


def _plan(page: Sequence[Text]) -> list[Seedling]:
    """Return one module's items, those above before those below."""
    seedlings: dict[str, Seedling] = {}
    last: dict[str, str] = {}
    for text in sorted(page, key=lambda text: text.path):
        parent = _parent(text.path, seedlings)
        before = last.get(parent)
        words = " ".join(text.content.split())
        title, _, rest = words.partition(". ")
        seedling = Seedling(
            id=str(uuid.uuid5(_NAMESPACE, f"{text.source} {text.path}")),
            title=title[:120],
            description=(rest or words)[:_DESCRIPTION_MAX] or None,
            kind=_kind(text.path),
            parent=parent,
            dependencies=[before] if before else [],
            tags=[text.source],
            notes=words[_DESCRIPTION_MAX : 3 * _DESCRIPTION_MAX] or None,
            more={"project": text.source, "path": text.path},
        )
        seedlings[text.path] = seedling
        last[parent] = seedling.id
    return list(seedlings.values())


def _parent(path: str, known: Mapping[str, Seedling]) -> str:
    """Return the id of the nearest item above that has documentation, "" for none."""
    page, _, name = path.partition("#")
    while name:
        name = name.rpartition(".")[0]
        above = f"{page}#{name}" if name else page
        if above in known:
            return known[above].id
    return ""


def _kind(path: str) -> str:
    name = path.partition("#")[2].rpartition(".")[2]
    if not name:
        return "epic"
    return "feature" if name[:1].isupper() else "task"


def _find(start: Path) -> Path | None:
    repository = Path(__file__).resolve().parents[3]
    for base in (start.resolve().parent, start.resolve(), repository.parent, repository):
        candidate = base / _FOLDER / _FILE
        if candidate.is_file():
            return candidate
    return None


def _read(file: Path) -> list[Seedling]:
    seedlings: dict[str, Seedling] = {}
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            seedling = _seedling(line, f"{file}:{number}")
            if seedling.id in seedlings:
                raise _unusable(f"{file}:{number}", "an item_id of its own", seedling.id)
            seedlings[seedling.id] = seedling
    if not seedlings:
        raise _unusable(str(file), "at least one item", "none")
    return list(seedlings.values())


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(
            f"{file} is not a readable file of JSON lines: {error}",
            hint="Give a file with one JSON object a line to --corpus.",
        ) from error


def _seedling(line: str, where: str) -> Seedling:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise _unusable(where, "a JSON object", line[:60]) from error
    if not isinstance(row, dict):
        raise _unusable(where, "a JSON object", line[:60])
    for name in ("item_id", "title"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise _unusable(where, f"a text {name}", repr(row.get(name)))
    more = row.get("metadata")
    return Seedling(
        id=row["item_id"],
        title=row["title"],
        description=_text(row.get("description")),
        kind=_text(row.get("item_type")) or "task",
        parent=_text(row.get("parent_id")) or "",
        dependencies=_texts(row.get("dependencies")),
        tags=_texts(row.get("tags")),
        notes=_text(row.get("notes")),
        more=more if isinstance(more, dict) else {},
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _unusable(where: str, expected: str, got: str) -> Rejected:
    return Rejected(
        f"The corpus cannot be used: {where} needs {expected}, got {got}.",
        reason=Reason.INVALID_ARGUMENT,
        violations=(Violation(where=where, expected=expected, got=got),),
    )
