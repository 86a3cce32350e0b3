"""YAML text -> plain data, with the file and line of every value and ${VAR} filled in.

Loading is safe: only mappings, lists, text, numbers, booleans and null exist; nothing is executed
and nothing is constructed. Size and depth are bounded. Every problem is collected, none raised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

from proxy.errors import Violation

Path: TypeAlias = tuple[str | int, ...]

BYTES_MAX = 1 << 20
"""A configuration is written by hand; anything larger is the wrong file."""
DEPTH_MAX = 24
NODES_MAX = 50_000
"""Aliases can make a small file large; this is where it ends."""

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SCALARS = frozenset({"str", "int", "float", "bool", "null", "timestamp"})
_WORDS = frozenset({"on", "off", "yes", "no"})
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was read.

    Attributes:
        data: mappings, lists and scalars; None when the text could not be parsed at all.
        marks: "file:line" by path; the root is ().
        from_environment: paths whose value came, at least in part, from a variable.
        filled_in: the values of those variables; none of them may be printed.
    """

    data: object
    marks: Mapping[Path, str]
    from_environment: frozenset[Path] = frozenset()
    filled_in: frozenset[str] = frozenset()
    problems: tuple[Violation, ...] = ()

    def where(self, path: Path) -> str:
        """Return "file:line (a.b.c)" for a path, by its nearest ancestor that was written."""
        known = path
        while known and known not in self.marks:
            known = known[:-1]
        dotted = ".".join(str(part) for part in path)
        mark = self.marks.get(known, "")
        return f"{mark} ({dotted})" if dotted else mark


@dataclass(slots=True)
class _Reader:
    """Walks one node tree. Its lists are local to one call of `read`."""

    name: str
    environment: Mapping[str, str]
    resolver: yaml.SafeLoader
    marks: dict[Path, str] = field(default_factory=dict)
    filled: set[Path] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    problems: list[Violation] = field(default_factory=list)
    nodes: int = 0
    full: bool = False

    def mark(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def complain(self, node: yaml.Node, path: Path, expected: str, got: str = "") -> None:
        dotted = ".".join(str(part) for part in path)
        where = f"{self.mark(node)} ({dotted})" if dotted else self.mark(node)
        self.problems.append(Violation(where=where, expected=expected, got=got))

    def value(self, node: yaml.Node, path: Path) -> object:
        self.nodes += 1
        if self.nodes > NODES_MAX or len(path) > DEPTH_MAX:
            if not self.full:
                self.complain(node, path[:3], f"at most {NODES_MAX} values, {DEPTH_MAX} deep")
            self.full = True
            return None
        self.marks.setdefault(path, self.mark(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, at)) for at, item in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        result: dict[str, object] = {}
        first: dict[str, str] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                self.complain(key_node, path, "a plain name as a key")
                continue
            if key == "<<":
                self.complain(key_node, path, "no merge keys (write the values out)", "<<")
                continue
            if key in first:
                expected = f"each key once (first at {first[key]})"
                self.complain(key_node, (*path, key), expected, "it again")
                continue
            first[key] = self.mark(key_node)
            self.marks[(*path, key)] = first[key]
            result[key] = self.value(value_node, (*path, key))
        return result

    def scalar(self, node: yaml.Node, path: Path) -> object:
        kind = node.tag.removeprefix(_TAG)
        if kind not in _SCALARS:
            self.complain(
                node, path, "plain text, a number, true, false or null", f"tag {node.tag}"
            )
            return None
        text = self.filled_in(node, path)
        if text == node.value:
            return self.construct(kind, text, node, path)
        self.filled.add(path)
        plain = getattr(node, "style", None) is None
        if not plain or not text:
            return text
        tag = str(self.resolver.resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]  # PyYAML's stub
        return self.construct(tag.removeprefix(_TAG), text, node, path)

    def construct(self, kind: str, text: str, node: yaml.Node, path: Path) -> object:
        # YAML 1.1 reads on, off, yes and no as booleans and dates as dates; here they are text.
        if kind not in ("int", "float", "bool", "null") or text.lower() in _WORDS:
            return text
        try:
            scalar = yaml.ScalarNode(_TAG + kind, text)
            return self.resolver.construct_object(scalar)
        except (ValueError, yaml.YAMLError):
            self.complain(node, path, f"a valid {kind}")
            return None

    def filled_in(self, node: yaml.Node, path: Path) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            name = match["name"]
            if name is None or not _NAME.match(name):
                self.complain(node, path, "${NAME} or ${NAME:-default}", match[0])
                return ""
            value = self.environment.get(name)
            if value:
                self.values.add(value)
                return value
            if match["default"] is not None:
                return match["default"]
            state = "an empty one" if name in self.environment else "none"
            self.complain(node, path, f"an environment variable {name}", state)
            return ""

        return _VARIABLE.sub(replace, str(node.value))


def read(text: str, name: str, environment: Mapping[str, str]) -> Source:
    """Parse `text`; `name` is what messages call the file. Problems are in the result."""
    if len(text.encode()) > BYTES_MAX:
        return _unread(name, 1, f"a configuration of at most {BYTES_MAX} bytes", "")
    try:
        return _parsed(text, name, environment)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        return _unread(name, at.line + 1 if at else 1, "valid YAML", error.problem or "")
    except yaml.YAMLError as error:
        return _unread(name, 1, "valid YAML", str(error).splitlines()[0])
    except RecursionError:
        return _unread(name, 1, f"values at most {DEPTH_MAX} deep", "")


def _parsed(text: str, name: str, environment: Mapping[str, str]) -> Source:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return _unread(name, 1, "a configuration", "an empty file")
        reader = _Reader(name=name, environment=environment, resolver=loader)
        return Source(
            data=reader.value(node, ()),
            marks=reader.marks,
            from_environment=frozenset(reader.filled),
            filled_in=frozenset(reader.values),
            problems=tuple(reader.problems),
        )
    finally:
        loader.dispose()


def _unread(name: str, line: int, expected: str, got: str) -> Source:
    where = f"{name}:{line}"
    return Source(
        data=None,
        marks={(): where},
        problems=(Violation(where=where, expected=expected, got=got),),
    )


def overlay(base: Source, top: Source) -> Source:
    """Merge two sources: mappings key by key, anything else replaced, null removes the key.

    The definition of a column (`collections.<name>.<side>.columns.<column>`) is replaced whole:
    half of one definition with half of another is never what was meant.
    """
    marks = dict(base.marks)
    data = _merged(base.data, top.data, (), marks, top)
    marks.update({path: mark for path, mark in top.marks.items() if path == () or path in marks})
    return Source(
        data=data,
        marks=marks,
        from_environment=base.from_environment | top.from_environment,
        filled_in=base.filled_in | top.filled_in,
        problems=base.problems + top.problems,
    )


def _merged(
    base: object, top: object, path: Path, marks: dict[Path, str], source: Source
) -> object:
    whole = len(path) == 5 and path[3] == "columns"
    if not isinstance(base, Mapping) or not isinstance(top, Mapping) or whole:
        for known in [known for known in marks if known[: len(path)] == path]:
            del marks[known]
        marks.update({at: mark for at, mark in source.marks.items() if at[: len(path)] == path})
        return top
    result = dict(base)
    for key, value in top.items():
        at = (*path, key)
        if value is None and key in base:
            del result[key]
        else:
            result[key] = _merged(base.get(key), value, at, marks, source)
    return result
