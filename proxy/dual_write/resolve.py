"""Decide once, before any store, whatever is not deterministic: ids, times, defaults (step 1)."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from proxy.errors import Reason, Rejected, Violation
from proxy.model import CollectionSpec, DefaultKind, FieldSpec, Key, Value, Write, WriteOp


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What was decided for one write: the time, and the numbers taken from sequences."""

    now: dt.datetime
    numbers: Mapping[str, int]


def wanted_numbers(spec: CollectionSpec, write: Write, stored: frozenset[str]) -> tuple[str, ...]:
    """Return the fields of a new record that need a number from a sequence of the primary."""
    if write.op not in (WriteOp.INSERT, WriteOp.UPSERT):
        return ()
    wanted = [
        item.name
        for item in spec.value_fields
        if item.default is DefaultKind.SEQUENCE
        and item.name in stored
        and item.name not in write.fields
    ]
    if not write.key:
        wanted += [name for name in spec.key if spec.by_name[name].default is DefaultKind.SEQUENCE]
    return tuple(wanted)


def resolve(
    spec: CollectionSpec, write: Write, decided: Decided, *, stored: frozenset[str]
) -> Write:
    """Return the deterministic write that both stores get.

    Args:
        stored: the fields that the primary holds; the others take the store's own default.

    Raises:
        Rejected: a required field is null or, for INSERT, absent; a field the primary cannot
            hold was given a value.
    """
    _refuse_unstored(spec, write, stored)
    if write.op is WriteOp.DELETE:
        return replace(write, fields={}, vector=None)
    _refuse_nulls(spec, write)
    if write.op is WriteOp.PATCH:
        return write
    fields: dict[str, Value] = dict(write.fields)
    keep: set[str] = set()
    for item in spec.value_fields:
        if item.name in fields or item.generated or item.name not in stored:
            continue
        if item.default is not DefaultKind.NONE:
            fields[item.name] = _default(item, decided)
            keep.add(item.name)
    if write.op is WriteOp.INSERT:
        _refuse_absent(spec, write, fields)
    return replace(
        write,
        key=write.key or _key(spec, write, decided),
        fields=fields,
        keep=frozenset(keep) if write.op is WriteOp.UPSERT else frozenset(),
    )


def with_key(write: Write, key: Key) -> Write:
    """Return the write with the key that was decided for it."""
    return write if write.key == key else replace(write, key=key)


def _default(item: FieldSpec, decided: Decided) -> Value:
    if item.default is DefaultKind.NOW:
        return decided.now
    if item.default is DefaultKind.SEQUENCE:
        return decided.numbers[item.name]
    return item.constant


def _key(spec: CollectionSpec, write: Write, decided: Decided) -> Key:
    missing = [name for name in spec.key if name not in decided.numbers]
    if missing:
        raise Rejected(
            f"A record of {write.collection!r} needs its key.",
            violations=tuple(
                Violation(where=f"key.{name}", expected="a value") for name in missing
            ),
            hint="Give every part of the key.",
        )
    return tuple(decided.numbers[name] for name in spec.key)


def _refuse_unstored(spec: CollectionSpec, write: Write, stored: frozenset[str]) -> None:
    strangers = [
        name
        for name, value in write.fields.items()
        if value is not None and name not in stored and not spec.by_name[name].generated
    ]
    if strangers:
        raise Rejected(
            f"The primary store cannot hold {', '.join(sorted(strangers))} of"
            f" {write.collection!r} yet.",
            reason=Reason.FAILED_PRECONDITION,
            violations=tuple(
                Violation(where=f"fields.{name}", expected="a field of the primary store")
                for name in sorted(strangers)
            ),
            hint="Leave the field out until the new store is primary.",
        )


def _refuse_nulls(spec: CollectionSpec, write: Write) -> None:
    patches = write.op is WriteOp.PATCH
    nulls = [
        name
        for name, value in write.fields.items()
        if value is None and spec.by_name[name].required
    ]
    vector = spec.vector
    given = vector is not None and vector.embedding is None
    cleared = write.set_vector and write.vector is None
    if vector is not None and vector.required and cleared and (given or patches):
        nulls.append("vector")
    if nulls:
        raise Rejected(
            f"Required fields of {write.collection!r} are null: {', '.join(sorted(nulls))}.",
            violations=tuple(
                Violation(where=f"fields.{name}", expected="a value", got="null")
                for name in sorted(nulls)
            ),
        )


def _refuse_absent(spec: CollectionSpec, write: Write, fields: Mapping[str, Value]) -> None:
    absent = [item.name for item in spec.value_fields if item.required and item.name not in fields]
    if absent:
        raise Rejected(
            f"A new record of {write.collection!r} needs {', '.join(sorted(absent))}.",
            violations=tuple(
                Violation(where=f"fields.{name}", expected="a value", got="nothing")
                for name in sorted(absent)
            ),
        )


def request_digest(write: Write) -> str:
    """Return a digest of what the client asked, to tell a retry from a misused key (rule W7)."""
    digest = hashlib.blake2b(digest_size=16)
    head = [write.op.value, write.collection, list(write.key), write.set_vector]
    digest.update(json.dumps([head, write.fields], sort_keys=True, default=str).encode())
    digest.update(write.vector or b"")
    return digest.hexdigest()
