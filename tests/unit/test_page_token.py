"""A page token continues the query that made it and no other."""

from __future__ import annotations

import base64

import pytest
from crossfade.storage.v1 import storage_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.settings import LimitSettings
from proxy.errors import Reason, Rejected
from proxy.fronts.native.page_token import read_token, write_token
from proxy.fronts.native.requests import RequestReader
from proxy.query import Order
from tests.wire_fakes import COLLECTIONS, DOCUMENTS, NOON

ORDER = (
    Order(field="created_at", descending=True),
    Order(field="score"),
    Order(field="active"),
    Order(field="token_count"),
)
AFTER = (NOON, 0.1, None, -(2**63), "serde", "de/ü")


def request_of(**changes: object) -> pb.ListRequest:
    """Return a list request with the order above."""
    request = pb.ListRequest(
        collection="documents",
        order_by=[pb.Order(field=term.field, descending=term.descending) for term in ORDER],
        limit=10,
    )
    request.filter.is_null.field = "kind"
    return request


def test_a_token_gives_back_exactly_the_values_it_was_made_of() -> None:
    request = request_of()
    request.page_token = write_token(request, DOCUMENTS, ORDER, AFTER)
    assert read_token(request, DOCUMENTS, ORDER) == AFTER
    assert request.page_token.replace("-", "").replace("_", "").isalnum()


def test_page_size_mask_and_vectors_may_change_from_page_to_page() -> None:
    request = request_of()
    request.page_token = write_token(request, DOCUMENTS, ORDER, AFTER)
    request.limit = 99
    request.include_vector = True
    request.field_mask.paths.append("content")
    assert read_token(request, DOCUMENTS, ORDER) == AFTER


def changed_collection(request: pb.ListRequest) -> None:
    request.collection = "jobs"


def changed_filter(request: pb.ListRequest) -> None:
    request.filter.is_null.field = "score"


def without_filter(request: pb.ListRequest) -> None:
    request.ClearField("filter")


def changed_direction(request: pb.ListRequest) -> None:
    request.order_by[0].descending = False


def shorter_order(request: pb.ListRequest) -> None:
    del request.order_by[3:]


@pytest.mark.parametrize(
    "change",
    [changed_collection, changed_filter, without_filter, changed_direction, shorter_order],
)
def test_a_token_of_another_query_is_refused(change: object) -> None:
    request = request_of()
    request.page_token = write_token(request, DOCUMENTS, ORDER, AFTER)
    assert callable(change)
    change(request)
    with pytest.raises(Rejected) as caught:
        read_token(request, DOCUMENTS, ORDER)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert caught.value.violations[0].where == "page_token"
    assert "of another query" in caught.value.violations[0].got


def test_an_empty_filter_is_another_query_than_no_filter() -> None:
    request = pb.ListRequest(collection="jobs")
    token = write_token(request, COLLECTIONS["jobs"], (), (7,))
    request.page_token = token
    assert read_token(request, COLLECTIONS["jobs"], ()) == (7,)
    request.filter.all_of.SetInParent()
    with pytest.raises(Rejected):
        read_token(request, COLLECTIONS["jobs"], ())


@pytest.mark.parametrize(
    ("token", "got"),
    [
        ("é", "not a page token"),
        ("a b", "not a page token"),
        ("abcde", "not a page token"),
        ("AAAA", "another version"),
        (base64.urlsafe_b64encode(b"\x02" + b"x" * 20).decode(), "another version"),
        (base64.urlsafe_b64encode(b"\x01" + b"x" * 20).decode(), "a damaged token"),
        ("AQ", "a damaged token"),
    ],
)
def test_something_that_is_no_token_is_refused(token: str, got: str) -> None:
    request = request_of()
    request.page_token = token
    with pytest.raises(Rejected) as caught:
        read_token(request, DOCUMENTS, ORDER)
    assert got in caught.value.violations[0].got


@given(st.data())
def test_a_token_with_any_character_changed_or_lost_is_refused(data: st.DataObject) -> None:
    request = request_of()
    token = write_token(request, DOCUMENTS, ORDER, AFTER)
    place = data.draw(st.integers(0, len(token) - 2), label="place")  # the last has spare bits
    letter = data.draw(st.sampled_from("AZaz09-_"), label="letter")
    changed = token[:place] + letter + token[place + 1 :]
    for wrong in {changed, token[:place], token + letter} - {token, ""}:
        request.page_token = wrong
        with pytest.raises(Rejected):
            read_token(request, DOCUMENTS, ORDER)


def test_a_bad_token_is_refused_by_the_list_request_and_never_hides_a_bad_order() -> None:
    reader = RequestReader(COLLECTIONS, LimitSettings())
    request = pb.ListRequest(collection="documents", page_token="zzz")
    with pytest.raises(Rejected, match="page_token"):
        reader.list_records(request)
    request.order_by.add(field="nope")
    with pytest.raises(Rejected, match="order_by"):
        reader.list_records(request)
