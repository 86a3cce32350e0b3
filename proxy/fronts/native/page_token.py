"""Page tokens: where the next page of a list begins, bound to the query that made them.

A token is URL-safe base64 of: version (1 byte), seal (8 bytes), values (an InList message that
holds one value for each sort term and each key part). The seal is a hash over the query and the
values, so a token of another query, of another version, or cut short is told from a right one.
It is no signature: who forges one can only begin a page elsewhere in a list that he may read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from crossfade.storage.v1 import storage_pb2 as pb
from google.protobuf.message import DecodeError

from proxy.errors import Rejected, Violation
from proxy.fronts.native.values import BadValue, fill_value, read_value
from proxy.model import CollectionSpec, FieldType, Value
from proxy.query import Order
from proxy.validate import rejected

_VERSION: Final = b"\x01"
_SEAL_BYTES: Final = 8


def write_token(
    request: pb.ListRequest,
    spec: CollectionSpec,
    order: tuple[Order, ...],
    after: tuple[Value, ...],
) -> str:
    """Return the token of the page that follows `after` (one value a sort term and key part)."""
    cursor = pb.InList()
    for kind, value in zip(_kinds(spec, order), after, strict=True):
        fill_value(cursor.values.add(), kind, value)
    values = cursor.SerializeToString(deterministic=True)
    token = base64.urlsafe_b64encode(_VERSION + _seal(request, values) + values)
    return token.rstrip(b"=").decode("ascii")


def read_token(
    request: pb.ListRequest, spec: CollectionSpec, order: tuple[Order, ...]
) -> tuple[Value, ...]:
    """Return what `write_token` was given for the same query.

    Raises:
        Rejected: INVALID_ARGUMENT, the token is damaged or came from another query.
    """
    text = request.page_token
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refusal("something that is not a page token") from error
    if raw[:1] != _VERSION:
        raise _refusal("a token of another version")
    seal, values = raw[1 : 1 + _SEAL_BYTES], raw[1 + _SEAL_BYTES :]
    if seal != _seal(request, values):
        raise _refusal("a damaged token or one of another query")
    try:
        cursor = pb.InList.FromString(values)
        pairs = zip(_kinds(spec, order), cursor.values, strict=True)
        return tuple(read_value(value, kind) for kind, value in pairs)
    except (DecodeError, BadValue, ValueError) as error:
        raise _refusal("a damaged token") from error


def _refusal(got: str) -> Rejected:
    expected = "the next_page_token of this same query (collection, filter, order_by)"
    return rejected([Violation(where="page_token", expected=expected, got=got)])


def _kinds(spec: CollectionSpec, order: tuple[Order, ...]) -> list[FieldType]:
    names = [term.field for term in order] + list(spec.key)
    return [spec.by_name[name].type for name in names]


def _seal(request: pb.ListRequest, values: bytes) -> bytes:
    """Hash what decides the list's content and order; page size and mask may change."""
    query = pb.ListRequest(
        collection=request.collection, filter=request.filter, order_by=request.order_by
    )
    if not request.HasField("filter"):
        query.ClearField("filter")
    hashed = hashlib.blake2b(digest_size=_SEAL_BYTES)
    text = query.SerializeToString(deterministic=True)
    hashed.update(len(text).to_bytes(8, "big") + text + values)
    return hashed.digest()
