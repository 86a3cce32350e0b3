"""Values cross the wire and come back the same, from the proxy's model and from the client's."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pytest
from crossfade.client import F, Json, Record
from crossfade.client.values import fill_key as client_fill_key
from crossfade.client.values import (
    pack_vector,
    read_record,
    set_value,
    to_microseconds,
)
from crossfade.client.values import read_key as client_read_key
from crossfade.client.values import read_value as client_read_value
from crossfade.storage.v1 import storage_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Violation
from proxy.fronts.native.values import (
    BadValue,
    RecordWriter,
    dump_json,
    fill_key,
    fill_value,
    read_key,
    read_scalar,
    read_value,
)
from proxy.model import FieldType, Key, Value
from proxy.model import Record as ModelRecord
from tests.wire_fakes import DOCUMENTS, NOON, packed

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MOMENTS = st.datetimes(timezones=st.just(dt.UTC)).map(lambda moment: moment.replace(fold=0))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
VALUES: Mapping[FieldType, st.SearchStrategy[object]] = {
    FieldType.TEXT: TEXTS,
    FieldType.INT: INTS,
    FieldType.FLOAT: FLOATS,
    FieldType.BOOL: st.booleans(),
    FieldType.TIMESTAMP: MOMENTS,
    FieldType.TEXT_LIST: st.lists(TEXTS, max_size=4),
    FieldType.JSON: JSON,
}
TYPED = st.sampled_from(list(FieldType)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.none() | VALUES[kind])
)
KEYS = st.lists(TEXTS | INTS, max_size=4).map(tuple)


@given(TYPED)
def test_a_value_of_every_type_survives_the_wire(typed: tuple[FieldType, Value]) -> None:
    kind, value = typed
    sent = pb.Value()
    fill_value(sent, kind, value)
    came = read_value(pb.Value.FromString(sent.SerializeToString()), kind)
    assert came == value
    assert repr(came) == repr(value)  # -0.0, True and 1 stay themselves


@given(TYPED)
def test_the_client_reads_what_the_proxy_wrote_and_writes_it_back_the_same(
    typed: tuple[FieldType, Value],
) -> None:
    kind, value = typed
    sent = pb.Value()
    fill_value(sent, kind, value)
    back = pb.Value()
    set_value(back, client_read_value(sent))
    assert read_value(back, kind) == value


@given(KEYS)
def test_a_key_survives_the_wire_in_both_directions(key: Key) -> None:
    sent, back = pb.Key(), pb.Key()
    fill_key(sent, key)
    problems: list[Violation] = []
    assert read_key(sent, "key", problems) == key
    assert client_read_key(sent) == key
    client_fill_key(back, key)
    assert back == sent
    assert problems == []


@given(st.dictionaries(st.sampled_from(["content", "kind"]), st.none() | TEXTS), KEYS)
def test_a_record_survives_the_wire_with_the_bits_of_its_vector(
    fields: dict[str, Value], key: Key
) -> None:
    vector = packed(0.1, -0.0, 1e-45, 3e38)
    record = ModelRecord(collection="documents", key=key, fields=fields, vector=vector)
    sent = pb.Record()
    RecordWriter(DOCUMENTS).fill(sent, record)
    came = read_record(pb.Record.FromString(sent.SerializeToString()))
    assert came.key == key
    assert came.fields == fields
    assert came.vector is not None
    assert came.vector.tobytes() == vector


def test_a_record_without_a_vector_has_none_on_the_wire() -> None:
    sent = pb.Record()
    RecordWriter(DOCUMENTS).fill(sent, ModelRecord(collection="documents", key=("a",), fields={}))
    assert not sent.HasField("vector")
    assert read_record(sent).vector is None


def test_an_empty_list_is_not_null() -> None:
    sent = pb.Value()
    fill_value(sent, FieldType.TEXT_LIST, [])
    assert sent.WhichOneof("kind") == "string_list_value"
    assert read_value(sent, FieldType.TEXT_LIST) == []


def test_an_int_is_taken_for_a_float_field_and_becomes_one() -> None:
    came = read_value(pb.Value(int_value=3), FieldType.FLOAT)
    assert isinstance(came, float)
    assert came == 3.0


def test_a_json_integer_beyond_double_precision_stays_exact() -> None:
    sent = pb.Value(json_value='{"id": 9007199254740993}')
    assert read_value(sent, FieldType.JSON) == {"id": 9007199254740993}


def test_json_with_a_decimal_keeps_every_digit() -> None:
    assert dump_json({"price": Decimal("1.10")}) == '{"price": 1.10}'


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (pb.Value(), FieldType.TEXT, "one kind to be set (string_value or null_value)"),
        (pb.Value(int_value=1), FieldType.TEXT, "string_value (the field is of type text)"),
        (pb.Value(string_value="{}"), FieldType.JSON, "json_value (the field is of type json)"),
        (pb.Value(bool_value=True), FieldType.INT, "int_value"),
        (pb.Value(double_value=1.0), FieldType.INT, "int_value"),
        (pb.Value(json_value="{"), FieldType.JSON, "a JSON text (Expecting property name"),
        (pb.Value(json_value=""), FieldType.JSON, "a JSON text"),
        (pb.Value(json_value="[" * 100_000), FieldType.JSON, "fewer levels"),
        (pb.Value(json_value="9" * 5000), FieldType.JSON, "a JSON text (Exceeds the limit"),
        (pb.Value(timestamp_us=2**62), FieldType.TIMESTAMP, "of a year from 1 to 9999"),
        (pb.Value(timestamp_us=-(2**62)), FieldType.TIMESTAMP, "of a year from 1 to 9999"),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_refused(
    value: pb.Value, kind: FieldType, expected: str
) -> None:
    with pytest.raises(BadValue) as caught:
        read_value(value, kind)
    assert expected in caught.value.expected


def test_the_first_and_last_moments_survive() -> None:
    first, last = dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)
    for aware in (first, last):
        sent = pb.Value()
        fill_value(sent, FieldType.TIMESTAMP, aware)
        assert read_value(sent, FieldType.TIMESTAMP) == aware


def test_only_scalars_can_be_compared_along_a_json_path() -> None:
    assert read_scalar(pb.Value(bool_value=False)) is False
    for value in (pb.Value(), pb.Value(json_value="1"), pb.Value(timestamp_us=1)):
        with pytest.raises(BadValue):
            read_scalar(value)


def test_a_key_part_without_a_kind_is_named() -> None:
    problems: list[Violation] = []
    read_key(pb.Key(parts=[pb.KeyPart(int_value=1), pb.KeyPart()]), "key", problems)
    assert [problem.where for problem in problems] == ["key.parts[1]"]


# ---------------------------------------------------------------- the client's own


def test_the_client_takes_numpy_scalars() -> None:
    for value, which in ((np.int64(3), "int_value"), (np.float32(0.5), "double_value")):
        sent = pb.Value()
        set_value(sent, value)
        assert sent.WhichOneof("kind") == which
    sent = pb.Value()
    set_value(sent, np.bool_(True))
    assert sent.bool_value is True


def test_the_client_refuses_a_datetime_without_a_zone() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        to_microseconds(dt.datetime(2025, 1, 1))  # noqa: DTZ001 - the point of the test


def test_the_client_refuses_what_no_field_can_hold() -> None:
    for value in ({1, 2}, [1, 2], object()):
        with pytest.raises(TypeError, match="Json"):
            set_value(pb.Value(), value)
    with pytest.raises(ValueError, match="out of range"):
        set_value(pb.Value(), 2**63)


def test_the_client_takes_json_that_is_no_object_in_a_wrapper() -> None:
    sent = pb.Value()
    set_value(sent, Json([1, "a"]))
    assert json.loads(sent.json_value) == [1, "a"]
    assert client_read_value(sent) == Json([1, "a"])


def test_the_client_refuses_a_kind_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="update the client"):
        client_read_value(pb.Value())


def test_a_vector_is_packed_from_bytes_arrays_and_lists_alike() -> None:
    expected = packed(1, 2.5, 3)
    big_endian = np.array([1, 2.5, 3], dtype=">f8")
    for given_vector in (expected, [1, 2.5, 3], np.array([1, 2.5, 3]), big_endian):
        assert pack_vector(given_vector) == expected
    with pytest.raises(ValueError, match=r"shape \(dim,\)"):
        pack_vector(np.zeros((2, 2)))


def test_records_are_equal_by_content_whoever_served_them() -> None:
    vector = np.array([1, 2], dtype="<f4")
    left = Record(key=("a",), fields={"at": NOON}, vector=vector)
    assert left == Record(key=("a",), fields={"at": NOON}, vector=vector.copy())
    assert left != Record(key=("a",), fields={"at": NOON})
    assert left != F


def test_one_part_of_a_key_need_not_be_a_tuple() -> None:
    for key in (7, (7,), [7]):
        sent = pb.Key()
        client_fill_key(sent, key)
        assert client_read_key(sent) == (7,)
