"""A value in a packed JSON column is its field's type, or its row is named as one that is not."""

from __future__ import annotations

import pytest

from proxy.layouts import Column, ColumnKind, Packed
from proxy.model import CollectionSpec, FieldSpec, FieldType
from proxy.stores.lancedb.packing import Unreadable, unpack
from proxy.stores.packed import unpacked

SPEC = CollectionSpec(
    name="items",
    key=("id",),
    fields=(
        FieldSpec(name="id", type=FieldType.TEXT),
        FieldSpec(name="weight", type=FieldType.FLOAT),
    ),
)
COLUMN = Column(
    name="extra", kind=ColumnKind.PACKED, packed=(Packed(field="weight", name="weight"),)
)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_past_the_range_of_a_float_is_not_one(sign: int) -> None:
    assert unpacked(FieldType.FLOAT, sign * 10**308) == sign * 1e308
    assert unpacked(FieldType.FLOAT, sign * 10**309) is None
    with pytest.raises(Unreadable, match=r"extra\.weight is .*, not a float"):
        unpack(SPEC, COLUMN, f'{{"weight": {sign * 10**309}}}')
