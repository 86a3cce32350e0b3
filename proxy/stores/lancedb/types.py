"""Column types: what Arrow type holds a logical type, and which others a layout may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from proxy.layouts import Column
from proxy.model import FieldType

NAIVE: Final = pa.timestamp("us")
AWARE: Final = pa.timestamp("us", tz="UTC")

_DEFAULTS: Final[Mapping[FieldType, Any]] = {
    FieldType.TEXT: pa.string(),
    FieldType.INT: pa.int64(),
    FieldType.FLOAT: pa.float64(),
    FieldType.BOOL: pa.bool_(),
    FieldType.TIMESTAMP: AWARE,
    FieldType.TEXT_LIST: pa.list_(pa.string()),
    FieldType.JSON: pa.string(),
}
_NAMED: Final[Mapping[FieldType, Mapping[str, Any]]] = {
    FieldType.TEXT: {"string": pa.string(), "large_string": pa.large_string()},
    FieldType.INT: {"int64": pa.int64(), "int32": pa.int32(), "int16": pa.int16()},
    FieldType.FLOAT: {"float64": pa.float64(), "double": pa.float64()},
    FieldType.BOOL: {"bool": pa.bool_()},
    FieldType.TIMESTAMP: {"timestamp[us]": NAIVE, "timestamp[us, UTC]": AWARE},
    FieldType.TEXT_LIST: {"list<string>": pa.list_(pa.string())},
    FieldType.JSON: {"string": pa.string(), "large_string": pa.large_string()},
}


def column_type(column: Column, kind: FieldType) -> Any:
    """Return the Arrow type of a FIELD column, None if its layout names one that cannot be."""
    if not column.type:
        return NAIVE if column.naive_utc else _DEFAULTS[kind]
    return _NAMED[kind].get(column.type)


def allowed_names(kind: FieldType) -> str:
    """Return the type names that a layout may give a column of this logical type."""
    return ", ".join(_NAMED[kind])
