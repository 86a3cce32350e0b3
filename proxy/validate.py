"""What a write must look like: collections, keys, values and vectors, checked before any store.

Pure: model objects in, violations out. `*_problems` return every violation; `find_collection`
raises. A front converts its wire types to the model, asks here, then calls the data plane.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from proxy.config.settings import LimitSettings
from proxy.errors import Reason, Rejected, Violation
from proxy.model import (
    CollectionSpec,
    DefaultKind,
    FieldSpec,
    FieldType,
    Key,
    Value,
    VectorSpec,
    Write,
    WriteOp,
    encode_key,
)

JSON_DEPTH_MAX = 64
"""Levels of a JSON value; PostgreSQL's own parser gives up by stack depth, later."""
_INT64 = range(-(2**63), 2**63)
_SHOWN_MAX = 80
_NAMES_SHOWN_MAX = 30

_EXPECTED = {
    FieldType.TEXT: "a text",
    FieldType.INT: "a 64-bit integer",
    FieldType.FLOAT: "a finite number",
    FieldType.BOOL: "a bool",
    FieldType.TIMESTAMP: "a timestamp with a zone",
    FieldType.TEXT_LIST: "a list of texts",
    FieldType.JSON: "a JSON value",
}


def rejected(violations: Sequence[Violation]) -> Rejected:
    """Return the one Rejected(INVALID_ARGUMENT) that carries every violation (at least one)."""
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return Rejected(
        f"{violations[0]}{more}", reason=Reason.INVALID_ARGUMENT, violations=tuple(violations)
    )


def shown(value: object) -> str:
    """Return a value as a person sees it in a message, cut to a bounded length."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(value[: _SHOWN_MAX + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


def one_of(names: Collection[str]) -> str:
    """Return "one of a, b, c", cut to a bounded number of names."""
    listed = ", ".join(sorted(names)[:_NAMES_SHOWN_MAX])
    return f"one of {listed}" + (", …" if len(names) > _NAMES_SHOWN_MAX else "")


def find_collection(
    collections: Mapping[str, CollectionSpec], name: str, *, where: str = "collection"
) -> CollectionSpec:
    """Return a collection by name.

    Raises:
        Rejected: INVALID_ARGUMENT, there is none of this name.
    """
    spec = collections.get(name)
    if spec is None:
        raise rejected([Violation(where=where, expected=one_of(collections), got=shown(name))])
    return spec


def write_problems(
    write: Write,
    spec: CollectionSpec,
    limits: LimitSettings,
    *,
    where: str = "record",
    skip: Collection[str] = (),
) -> list[Violation]:
    """Return what is wrong with a write as a client gave it (nothing is resolved yet).

    Args:
        where: path of the record in the request, for the messages.
        skip: fields that the front has reported already ("key" and "vector" among them).
    """
    prefix = f"{where}." if where else ""
    problems: list[Violation] = []
    if "key" not in skip:
        allocated = write.op in (WriteOp.INSERT, WriteOp.UPSERT)
        problems += key_problems(
            write.key, spec, limits, where=f"{prefix}key", may_be_absent=allocated
        )
    if write.op is WriteOp.DELETE:
        return problems
    problems += _field_problems(write, spec, where=f"{prefix}fields", skip=skip)
    if write.set_vector and "vector" not in skip:
        cleared = write.op is WriteOp.PATCH and write.vector is None
        problems += vector_problems(write.vector, spec, where=f"{prefix}vector", cleared=cleared)
    return problems


def key_problems(
    key: Key,
    spec: CollectionSpec,
    limits: LimitSettings,
    *,
    where: str = "key",
    may_be_absent: bool = False,
) -> list[Violation]:
    """Return what is wrong with a key: its arity, its parts' types, its length."""
    if not key and may_be_absent and _allocates_key(spec):
        return []
    if len(key) != len(spec.key):
        names = ", ".join(spec.key)
        expected = f"{len(spec.key)} part(s): {names}"
        return [Violation(where=where, expected=expected, got=f"{len(key)} part(s)")]
    problems = []
    for name, part in zip(spec.key, key, strict=True):
        problem = value_problem(spec.by_name[name], part, where=f"{where}.{name}")
        if problem is not None:
            problems.append(problem)
    if not problems:
        size = len(encode_key(key).encode())
        if size > limits.key_bytes_max:
            expected = f"at most {limits.key_bytes_max} bytes as a JSON array in UTF-8"
            problems.append(Violation(where=where, expected=expected, got=f"{size} bytes"))
    return problems


def _allocates_key(spec: CollectionSpec) -> bool:
    """True if a record's whole key can be made by the proxy."""
    return all(spec.by_name[name].default is not DefaultKind.NONE for name in spec.key)


def _field_problems(
    write: Write, spec: CollectionSpec, *, where: str, skip: Collection[str]
) -> list[Violation]:
    problems = []
    for name, value in write.fields.items():
        if name in skip:
            continue
        problem = _named_value_problem(name, value, spec, where=f"{where}.{name}")
        if problem is not None:
            problems.append(problem)
    if write.op is not WriteOp.PATCH:
        problems += [
            Violation(where=f"{where}.{name}", expected="a value, it is required", got="nothing")
            for name in _missing(write, spec)
            if name not in skip
        ]
    return problems


def _missing(write: Write, spec: CollectionSpec) -> list[str]:
    """Name required fields that were left out and that nothing else decides."""
    kept = write.op is WriteOp.UPSERT
    return [
        item.name
        for item in spec.value_fields
        if item.required
        and item.name not in write.fields
        and item.default is DefaultKind.NONE
        and not item.generated
        and not (item.keep and kept)
    ]


def _named_value_problem(
    name: str, value: Value, spec: CollectionSpec, *, where: str
) -> Violation | None:
    item = spec.by_name.get(name)
    if item is None:
        writable = [one.name for one in spec.value_fields if not one.generated]
        return Violation(where=where, expected=one_of(writable), got=shown(name))
    if name in spec.key:
        return Violation(where=where, expected="a key field to be given in the key")
    if item.generated:
        return Violation(where=where, expected="nothing, the store makes this field")
    return value_problem(item, value, where=where)


def value_problem(item: FieldSpec, value: Value, *, where: str) -> Violation | None:
    """Return what is wrong with one value of a field, None if it can be stored."""
    if value is None:
        if item.required:
            return Violation(where=where, expected="a value, it is required", got="null")
        return None
    problem = type_problem(item.type, value, where=where)
    if problem is None and item.type is FieldType.TEXT and isinstance(value, str):
        if item.length_max and len(value) > item.length_max:
            expected = f"at most {item.length_max} characters"
            problem = Violation(where=where, expected=expected, got=f"{len(value)} characters")
        elif item.choices and value not in item.choices:
            problem = Violation(where=where, expected=one_of(item.choices), got=shown(value))
    return problem


def type_problem(kind: FieldType, value: Value, *, where: str) -> Violation | None:
    """Return what is wrong with the type of a value that is not null."""
    if kind is FieldType.JSON:
        return _json_problem(value, where, JSON_DEPTH_MAX)
    if kind is FieldType.TEXT_LIST and isinstance(value, list | tuple):
        for number, element in enumerate(value):
            problem = _text_problem(element, f"{where}[{number}]")
            if problem is not None:
                return problem
        return None
    if kind is FieldType.TEXT:
        return _text_problem(value, where)
    if _is_scalar(kind, value):
        return None
    return _not(where, _EXPECTED[kind], value)


def _is_scalar(kind: FieldType, value: Value) -> bool:
    """True if the value is a number, bool or timestamp of this type."""
    if kind is FieldType.BOOL:
        return isinstance(value, bool)
    if kind is FieldType.TIMESTAMP:
        return isinstance(value, dt.datetime) and value.tzinfo is not None
    if isinstance(value, bool):
        return False
    if kind is FieldType.INT:
        return isinstance(value, int) and value in _INT64
    if kind is FieldType.FLOAT:
        return isinstance(value, int | float) and math.isfinite(value)
    return False


def _typed(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}"


def _text_problem(value: object, where: str) -> Violation | None:
    if not isinstance(value, str):
        return _not(where, "a text", value)
    if "\x00" in value:
        return Violation(where=where, expected="a text without U+0000", got=shown(value))
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return Violation(where=where, expected="a text without lone surrogates", got="one")
    return None


def _json_problem(value: object, where: str, depth: int) -> Violation | None:
    """Walk a JSON value; the depth is bounded, so the recursion is."""
    if isinstance(value, Mapping | list | tuple):
        return _json_inner_problem(value, where, depth)
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, str):
        return _text_problem(value, where)
    if isinstance(value, float):
        return None if math.isfinite(value) else _not(where, "finite numbers", value)
    return _not(where, "a JSON value", value)


def _json_inner_problem(
    value: Mapping[object, object] | Sequence[object], where: str, depth: int
) -> Violation | None:
    if depth == 0:
        return Violation(where=where, expected=f"at most {JSON_DEPTH_MAX} levels", got="more")
    inner: list[object] = list(value)
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in inner):
            return _not(where, "object keys that are texts", value)
        inner += value.values()
    found = (_json_problem(one, where, depth - 1) for one in inner)
    return next((problem for problem in found if problem is not None), None)


def _not(where: str, expected: str, value: object) -> Violation:
    return Violation(where=where, expected=expected, got=_typed(value))


def vector_problems(
    vector: bytes | None,
    spec: CollectionSpec,
    *,
    where: str = "vector",
    cleared: bool = False,
) -> list[Violation]:
    """Return what is wrong with the vector of a record that is to be written.

    Args:
        cleared: the writer asks for none (null), and not for the one that the proxy would make.
    """
    if spec.vector is None:
        if vector is None:
            return []
        expected = f"no vector, {spec.name} has none"
        return [Violation(where=where, expected=expected, got=shown(vector))]
    if (vector is not None or cleared) and not spec.vector.given:
        expected = "no vector: the two stores hold those of different models, made from the text"
        got = "null" if vector is None else shown(vector)
        return [Violation(where=where, expected=expected, got=got)]
    if vector is None:
        made = spec.vector.embedding is not None and not cleared
        if spec.vector.required and not made:
            return [Violation(where=where, expected="a vector, it is required", got="nothing")]
        return []
    problem = packed_problem(vector, spec.vector, where=where)
    return [] if problem is None else [problem]


def packed_problem(vector: bytes, spec: VectorSpec, *, where: str) -> Violation | None:
    """Return what is wrong with a packed little-endian float32 vector; it is not copied."""
    if len(vector) != 4 * spec.dim:
        expected = f"{spec.dim} float32 ({4 * spec.dim} bytes)"
        got = f"{len(vector)} bytes" + ("" if len(vector) % 4 else f", {len(vector) // 4} float32")
        return Violation(where=where, expected=expected, got=got)
    values = np.frombuffer(vector, dtype="<f4")
    finite = np.isfinite(values)
    if finite.all():
        return None
    position = int(np.argmin(finite))
    return Violation(
        where=f"{where}[{position}]", expected="a finite number", got=str(values[position])
    )
