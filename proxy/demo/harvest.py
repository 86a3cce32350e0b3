"""Documents out of this Python's own documentation strings, parsed, never imported."""

from __future__ import annotations

import ast
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SKIPPED = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip"}
)
_LENGTH_MIN = 30
_SOURCES = 40
_DOCUMENTS_MIN = 5000
_QUERY_WORDS_MIN = 5

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One documentation string: of which source, at which path."""

    source: str
    path: str
    content: str


def harvest(root: Path | None = None) -> list[Text]:
    """Return the documentation strings of the best documented modules, in a fixed order.

    The 40 modules or packages of the standard library with the most of them are taken, and
    further ones until there are 5,000 texts; about the same on every machine.

    Args:
        root: the library's directory, None for the running Python's.
    """
    library = root or Path(sysconfig.get_paths()["stdlib"])
    by_source: dict[str, dict[str, str]] = {}
    for file in sorted(library.rglob("*.py")):
        relative = file.relative_to(library)
        if _SKIPPED.isdisjoint(relative.parts):
            texts = by_source.setdefault(relative.parts[0].removesuffix(".py"), {})
            for path, content in _texts_of(file, relative):
                texts.setdefault(path, content)
    ranked = sorted(by_source, key=lambda name: (-len(by_source[name]), name))
    chosen: list[str] = []
    for name in ranked:
        enough = sum(len(by_source[other]) for other in chosen) >= _DOCUMENTS_MIN
        if by_source[name] and (len(chosen) < _SOURCES or not enough):
            chosen.append(name)
    return [
        Text(source=name, path=path, content=content)
        for name in sorted(chosen)
        for path, content in sorted(by_source[name].items())
    ]


def questions(texts: list[Text], count: int) -> list[str]:
    """Return first sentences of documents spread evenly over `texts`, as search questions."""
    sentences = []
    for text in texts:
        sentence = " ".join(text.content.split("\n\n")[0].split()).split(". ")[0]
        if len(sentence.split()) >= _QUERY_WORDS_MIN:
            sentences.append(sentence[:200])
    step = max(1, len(sentences) // count)
    return sentences[::step][:count]


def source_version() -> str:
    """Return the version that every harvested source carries."""
    return platform.python_version()


def _texts_of(file: Path, relative: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return  # a file that Python itself could not read has no documentation
    page = relative.with_suffix(".html").as_posix()
    yield from _walk(tree, page, "")


def _walk(node: _Documented, page: str, name: str) -> Iterator[tuple[str, str]]:
    content = ast.get_docstring(node)
    if content is not None and len(content) >= _LENGTH_MIN:
        yield (f"{page}#{name}" if name else page), content.replace("\x00", "\\x00")
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, page, f"{name}.{child.name}" if name else child.name)
