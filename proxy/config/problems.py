"""Turns what pydantic found into violations with file and line, and a "did you mean"."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from proxy.config.secrets import is_secret, redacted_dsn
from proxy.config.source import Path, Source
from proxy.errors import Violation
from proxy.model import CollectionSpec

_GOT_MAX = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """One thing that is wrong, at a path; the file and line are looked up once all are found."""

    path: Path
    expected: str
    got: str = ""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return ' (did you mean "x"?)' for a near miss, else the known names if they are few."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f' (did you mean "{near[0]}"?)'
    if known and len(known) <= 12:
        return f" ({', '.join(known)})"
    return ""


def unknown_field(path: Path, name: str, spec: CollectionSpec) -> Complaint:
    """Return the complaint about a name that is no field of the collection."""
    hint = did_you_mean(name, list(spec.by_name))
    return Complaint(path=path, expected=f"a field of {spec.name}{hint}", got=f'"{name}"')


def from_pydantic(
    error: ValidationError, source: Source, model: type[BaseModel]
) -> tuple[Violation, ...]:
    """Return one violation for each error pydantic found; secrets are never shown."""
    found = []
    for item in error.errors(include_url=False, include_context=True):
        loc: Path = tuple(part for part in item["loc"] if part != "[key]")
        if item["type"] == "extra_forbidden":
            name = str(loc[-1])
            expected = f"a known key{did_you_mean(name, known_keys(model, loc[:-1]))}"
            found.append(Violation(where=source.where(loc), expected=expected, got=f'"{name}"'))
        elif item["type"] == "missing":
            expected = f'a value for "{loc[-1]}"'
            found.append(Violation(where=source.where(loc), expected=expected, got="nothing"))
        else:
            got = shown(item.get("input"), loc, source)
            expected = _expected(item["type"], str(item["msg"]))
            found.append(Violation(where=source.where(loc), expected=expected, got=got))
    return tuple(found)


def shown(value: object, path: Path, source: Source) -> str:
    """Return a short form of a value; one that is or may be a secret is not shown."""
    if is_secret(path) or path in source.from_environment:
        return "a value that is not shown here"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = redacted_dsn(repr(value))
    return text if len(text) <= _GOT_MAX else f"{text[:_GOT_MAX]}..."


_RULES = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
}
"""What pydantic's commonest findings are called here, by its own type of error."""


def _expected(kind: str, message: str) -> str:
    if kind in _RULES:
        return _RULES[kind]
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    text = text.replace("String should match", "a text that matches")
    return text[:1].lower() + text[1:] if text[:2].istitle() else text


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """Return the keys that the model allows at `path`, [] where any name is allowed."""
    here: object = model
    for part in path:
        here = _step(here, part)
    target = _model(here)
    return list(target.model_fields) if target is not None else []


def _step(here: object, part: str | int) -> object:
    model = _model(here)
    if model is not None:
        info = model.model_fields.get(str(part))
        return info.annotation if info is not None else None
    bare = _unwrapped(here)
    arguments = get_args(bare)
    origin = get_origin(bare)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
        return arguments[1]
    return arguments[0] if arguments else None


def _unwrapped(annotation: object) -> object:
    """Strip Annotated[...] and `| None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            rest = [item for item in get_args(annotation) if item is not type(None)]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def _model(annotation: object) -> type[BaseModel] | None:
    bare = _unwrapped(annotation)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return bare
    return None
