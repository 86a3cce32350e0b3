"""Vector spaces: the text a record is embedded by, and whether two stores hold the same vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from string import Formatter

from proxy.model import EmbeddingSpec, Value, VectorSpec


class VectorPath(Enum):
    """How the vectors of one store come from the records of the other."""

    NONE = "none"
    """The receiving store holds none."""
    COPIED = "copied"
    """Both stores hold the same vector, bit for bit."""
    EMBEDDED = "embedded"
    """The receiving store's vector is made anew from the record's text."""
    MISSING = "missing"
    """The receiving store has vectors, and nobody can make them."""


def vector_path(source: VectorSpec | None, target: VectorSpec | None) -> VectorPath:
    """Return how vectors get from a store with vectors as `source` to one with `target`."""
    if target is None:
        return VectorPath.NONE
    if same_space(source, target):
        return VectorPath.COPIED
    return VectorPath.EMBEDDED if target.embedding is not None else VectorPath.MISSING


def same_space(left: VectorSpec | None, right: VectorSpec | None) -> bool:
    """True if a vector of one is a vector of the other: same dimension, same way of making it."""
    if left is None or right is None:
        return left is right
    return left.dim == right.dim and left.embedding == right.embedding


def text_of(embedding: EmbeddingSpec, fields: Mapping[str, Value]) -> str:
    """Return the text that stands for a record; "" if every field of the template is empty.

    Args:
        fields: by name, key fields included; those absent count as null.
    """
    values = {name: _shown(fields.get(name)) for name in embedding.fields}
    if not any(values.values()):
        return ""
    return embedding.template.format_map(values).strip()


def _shown(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(str(item) for item in value)
    return str(value)


def template_fields(template: str) -> tuple[str, ...]:
    """Return the fields of a template in the order of their first use.

    Raises:
        ValueError: it is not a text with `{field}` in it (`{{` and `}}` stand for themselves).
    """
    names: dict[str, None] = {}
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(f"a plain {{field}}, not {{{name}}}")
        names[name] = None
    if not names:
        raise ValueError("at least one {field}")
    return tuple(names)
