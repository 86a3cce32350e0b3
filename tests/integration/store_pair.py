"""A store beside the one in memory: random contents, and what both must answer alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from proxy.canonical import differing_fields, record_digest
from proxy.model import Applied, Key, Record, Write, WriteOp, WriteResult
from proxy.query import CountQuery, Filter, KeyRange, ListQuery, Order
from proxy.stores.base import Store
from tests import things

SPEC = things.schema().collections["things"]
NAMES = [*things.NAMES, "rest"]
Pair = tuple[Store, Store]
"""The store in memory, and the one that must answer as it does."""

ORDERS = st.lists(
    st.builds(
        lambda field, descending: Order(field=field, descending=descending),
        st.sampled_from(
            ["text", "int", "float", "bool", "when", "naive", "p_text", "p_when", "num"]
        ),
        st.booleans(),
    ),
    max_size=2,
)


async def refill(pair: Pair, writes: list[Write], *, atomic: bool) -> None:
    """Replace everything in both stores by these writes."""
    for store in pair:
        keys = await store.list_keys(ListQuery(collection="things", limit=1000), deadline_s=10)
        gone = [Write(op=WriteOp.DELETE, collection="things", key=key) for key in keys]
        results = await store.apply([*gone, *writes], atomic=atomic, deadline_s=10)
        assert {result.applied for result in results} <= {Applied.DONE}, results


def assert_same(left: Mapping[Key, Record], right: Mapping[Key, Record]) -> None:
    """Compare in canonical form: 1e16 in JSON comes back as an integer."""
    assert left.keys() == right.keys()
    for key, record in left.items():
        assert record.fields.keys() == right[key].fields.keys()
        assert differing_fields(SPEC, record, right[key], NAMES) == ()


async def assert_read_back_and_digested_alike(pair: Pair, keys: list[Key]) -> None:
    """Read these keys and the digests of everything, each checked against its record."""
    found = []
    for store in pair:
        records = await store.get("things", keys, vectors=True, deadline_s=10)
        digests = await store.key_digests(
            "things", KeyRange(), fields=NAMES, order="C", deadline_s=10
        )
        whole = await store.digest("things", KeyRange(), fields=NAMES, order="C", deadline_s=10)
        assert [d.digest for d in digests] == [
            record_digest(SPEC, records[d.key], NAMES) for d in digests
        ]
        assert whole.sum == sum(d.digest for d in digests) % 2**128
        found.append((records, digests))
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


async def assert_found_alike(pair: Pair, filters: list[Filter]) -> None:
    """List the keys by each filter, and count them."""
    memory, store = pair
    for filter in filters:
        query = ListQuery(collection="things", filter=filter)
        expected = await memory.list_keys(query, deadline_s=10)
        assert await store.list_keys(query, deadline_s=10) == expected, str(filter)[:300]
        counting = CountQuery(collection="things", filter=filter)
        assert await store.count(counting, deadline_s=10) == await memory.count(
            counting, deadline_s=10
        )


async def assert_listed_alike(pair: Pair, orders: list[list[Order]], *, offset: int = 0) -> None:
    """List by each order, and the page after each of the first records."""
    memory, store = pair
    for order in orders:
        query = ListQuery(collection="things", order=tuple(order))
        expected = await memory.list_records(query, deadline_s=10)
        listed = await store.list_records(query, deadline_s=10)
        assert [record.key for record in listed] == [record.key for record in expected]
        for last in expected[:3]:
            values = {**last.fields, "kind": last.key[0], "num": last.key[1]}
            after = (*(values[term.field] for term in order), *last.key)
            query = ListQuery(
                collection="things", order=tuple(order), after=after, offset=offset, limit=2
            )
            page = await memory.list_keys(query, deadline_s=10)
            assert await store.list_keys(query, deadline_s=10) == page


async def assert_applied_alike(pair: Pair, batch: list[Write]) -> Sequence[WriteResult]:
    """Apply a batch to both stores; return what the one in memory answered."""
    answers = [await store.apply(batch, atomic=False, deadline_s=10) for store in pair]
    for left, right in zip(*answers, strict=True):
        assert left.applied is right.applied, answers
        assert (left.record is None) == (right.record is None), answers
        if left.record is not None and right.record is not None:
            assert_same({left.record.key: left.record}, {left.record.key: right.record})
    return answers[0]


async def assert_left_alike(pair: Pair, keys: list[Key]) -> None:
    """Read what both stores hold under these keys."""
    assert_same(*[await store.get("things", keys, vectors=True, deadline_s=10) for store in pair])
