"""Merging a patch into a stored record: RFC 7396 for JSON fields, replacement for the others."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.model import CollectionSpec, FieldType, JsonValue, Value


def merge_json(target: object, patch: object) -> JsonValue:
    """Return `target` merged with `patch` (RFC 7396: null removes a name, objects nest)."""
    if not isinstance(patch, Mapping):
        return patch  # type: ignore[return-value]  # a JSON value that replaces the target
    merged: dict[str, JsonValue] = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_json(merged.get(name), value)
    return merged


def patched_fields(
    spec: CollectionSpec, stored: Mapping[str, Value], patch: Mapping[str, Value]
) -> dict[str, Value]:
    """Return the new values of the patched fields alone."""
    return {
        name: merge_json(stored.get(name), value)
        if name in spec.by_name and spec.by_name[name].type is FieldType.JSON
        else value
        for name, value in patch.items()
    }
