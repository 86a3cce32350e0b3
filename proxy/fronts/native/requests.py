"""Requests from the wire to the model, validated: what leaves here is fit for the data plane.

Each method raises Rejected(INVALID_ARGUMENT) with everything that was wrong at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crossfade.storage.v1 import storage_pb2 as pb

from proxy.config.settings import LimitSettings
from proxy.errors import Violation
from proxy.fronts.native.filters import FilterReader
from proxy.fronts.native.page_token import read_token
from proxy.fronts.native.values import BadValue, read_key, read_value
from proxy.model import CollectionSpec, Key, Value, Write, WriteOp
from proxy.query import (
    CountQuery,
    Filter,
    ListQuery,
    Order,
    Projection,
    SearchMode,
    SearchQuery,
)
from proxy.validate import find_collection, key_problems, rejected, write_problems
from proxy.validate_query import (
    count_problems,
    filter_problems,
    keys_problems,
    list_problems,
    order_problems,
    projection_problems,
    search_problems,
)

LIST_LIMIT_DEFAULT: Final = 100
SEARCH_LIMIT_DEFAULT: Final = 10
ALPHA_DEFAULT: Final = 0.7

_MODES: Final[Mapping[int, SearchMode]] = {
    pb.SEARCH_MODE_UNSPECIFIED: SearchMode.VECTOR,
    pb.SEARCH_MODE_VECTOR: SearchMode.VECTOR,
    pb.SEARCH_MODE_TEXT: SearchMode.TEXT,
    pb.SEARCH_MODE_KEYWORD: SearchMode.KEYWORD,
    pb.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
}
Masked = pb.GetRequest | pb.BatchGetRequest | pb.ListRequest | pb.SearchRequest


class RequestReader:
    """Reads the requests of one logical schema."""

    def __init__(self, collections: Mapping[str, CollectionSpec], limits: LimitSettings) -> None:
        self._collections = collections
        self._limits = limits

    # ------------------------------------------------------------ writes

    def insert(self, request: pb.InsertRequest) -> Write:
        """Return the write of an Insert."""
        spec = find_collection(self._collections, request.collection)
        return self._record(WriteOp.INSERT, spec, request.record, "record")

    def upsert(self, request: pb.UpsertRequest) -> Write:
        """Return the write of an Upsert."""
        spec = find_collection(self._collections, request.collection)
        return self._record(WriteOp.UPSERT, spec, request.record, "record")

    def update(self, request: pb.UpdateRequest) -> Write:
        """Return the write of an Update."""
        spec = find_collection(self._collections, request.collection)
        return self._patch(spec, request.patch, "patch")

    def delete(self, request: pb.DeleteRequest) -> Write:
        """Return the write of a Delete."""
        spec = find_collection(self._collections, request.collection)
        return self._delete(spec, request.key, "")

    def item(self, item: pb.WriteItem, where: str) -> Write:
        """Return one write of a batch."""
        spec = find_collection(self._collections, item.collection, where=f"{where}.collection")
        which = item.WhichOneof("operation")
        if which == "insert":
            return self._record(WriteOp.INSERT, spec, item.insert, f"{where}.insert")
        if which == "upsert":
            return self._record(WriteOp.UPSERT, spec, item.upsert, f"{where}.upsert")
        if which == "update":
            return self._patch(spec, item.update, f"{where}.update")
        if which == "delete":
            return self._delete(spec, item.delete, f"{where}.delete")
        raise rejected([Violation(where=where, expected="an operation to be set", got="none")])

    def batch_size(self, request: pb.BatchWriteRequest) -> int:
        """Return how many writes a batch has, if that many are allowed."""
        count = len(request.items)
        if not 1 <= count <= self._limits.batch_items_max:
            expected = f"1 to {self._limits.batch_items_max} items"
            raise rejected([Violation(where="items", expected=expected, got=str(count))])
        return count

    def delete_where(self, request: pb.DeleteWhereRequest) -> tuple[str, Filter]:
        """Return the collection and the filter of a DeleteWhere."""
        spec = find_collection(self._collections, request.collection)
        problems: list[Violation] = []
        if not request.HasField("filter"):
            expected = "a filter (an empty all_of matches every record)"
            raise rejected([Violation(where="filter", expected=expected, got="nothing")])
        tree = self._filter(request.filter, spec, problems)
        problems += filter_problems(tree, spec, self._limits)
        if problems:
            raise rejected(problems)
        return spec.name, tree

    def _record(self, op: WriteOp, spec: CollectionSpec, record: pb.Record, where: str) -> Write:
        problems: list[Violation] = []
        skip: set[str] = set()
        write = Write(
            op=op,
            collection=spec.name,
            key=_key(record.key, f"{where}.key", problems, skip),
            fields=_fields(record.fields, spec, f"{where}.fields", problems, skip),
            vector=record.vector if record.HasField("vector") else None,
        )
        return self._checked(write, spec, where, problems, skip)

    def _patch(self, spec: CollectionSpec, patch: pb.Patch, where: str) -> Write:
        problems: list[Violation] = []
        skip: set[str] = set()
        given = patch.HasField("vector")
        if given and patch.clear_vector:
            expected = "false when a vector is given"
            problems.append(Violation(where=f"{where}.clear_vector", expected=expected, got="true"))
        write = Write(
            op=WriteOp.PATCH,
            collection=spec.name,
            key=_key(patch.key, f"{where}.key", problems, skip),
            fields=_fields(patch.fields, spec, f"{where}.fields", problems, skip),
            vector=patch.vector if given else None,
            set_vector=given or patch.clear_vector,
        )
        return self._checked(write, spec, where, problems, skip)

    def _delete(self, spec: CollectionSpec, message: pb.Key, where: str) -> Write:
        problems: list[Violation] = []
        skip: set[str] = set()
        key = _key(message, f"{where}.key" if where else "key", problems, skip)
        write = Write(op=WriteOp.DELETE, collection=spec.name, key=key, set_vector=False)
        return self._checked(write, spec, where, problems, skip)

    def _checked(
        self,
        write: Write,
        spec: CollectionSpec,
        where: str,
        problems: list[Violation],
        skip: set[str],
    ) -> Write:
        """Return the write if neither reading it nor its meaning is wrong."""
        problems += write_problems(write, spec, self._limits, where=where, skip=skip)
        if problems:
            raise rejected(problems)
        return write

    # ------------------------------------------------------------ reads

    def get(self, request: pb.GetRequest) -> tuple[CollectionSpec, Key, Projection]:
        """Return the collection, the key and the projection of a Get."""
        spec = find_collection(self._collections, request.collection)
        projection = _projection(request, spec)
        problems: list[Violation] = []
        key = read_key(request.key, "key", problems)
        problems = problems or key_problems(key, spec, self._limits)
        problems += projection_problems(projection, spec)
        if problems:
            raise rejected(problems)
        return spec, key, projection

    def batch_get(
        self, request: pb.BatchGetRequest
    ) -> tuple[CollectionSpec, tuple[Key, ...], Projection]:
        """Return the collection, the keys and the projection of a BatchGet."""
        spec = find_collection(self._collections, request.collection)
        projection = _projection(request, spec)
        problems: list[Violation] = []
        keys = tuple(
            read_key(message, f"keys[{number}]", problems)
            for number, message in enumerate(request.keys)
        )
        problems = problems or keys_problems(keys, spec, self._limits)
        problems += projection_problems(projection, spec)
        if problems:
            raise rejected(problems)
        return spec, keys, projection

    def list_records(self, request: pb.ListRequest) -> tuple[CollectionSpec, ListQuery]:
        """Return the query of a List."""
        spec = find_collection(self._collections, request.collection)
        problems: list[Violation] = []
        tree = self._filter_if_any(request, spec, problems)
        order = tuple(
            Order(field=term.field, descending=term.descending) for term in request.order_by
        )
        after = None
        if request.page_token and not order_problems(order, spec):
            after = read_token(request, spec, order)
        query = ListQuery(
            collection=spec.name,
            filter=tree,
            order=order,
            after=after,
            offset=request.offset,
            limit=request.limit or LIST_LIMIT_DEFAULT,
            projection=_projection(request, spec),
        )
        problems += list_problems(query, spec, self._limits)
        if problems:
            raise rejected(problems)
        return spec, query

    def count(self, request: pb.CountRequest) -> tuple[CollectionSpec, CountQuery]:
        """Return the query of a Count."""
        spec = find_collection(self._collections, request.collection)
        problems: list[Violation] = []
        tree = self._filter_if_any(request, spec, problems)
        query = CountQuery(
            collection=spec.name,
            filter=tree,
            group_by=request.group_by if request.HasField("group_by") else None,
            sum_field=request.sum_field if request.HasField("sum_field") else None,
        )
        problems += count_problems(query, spec, self._limits)
        if problems:
            raise rejected(problems)
        return spec, query

    def search(self, request: pb.SearchRequest) -> tuple[CollectionSpec, SearchQuery]:
        """Return the query of a Search."""
        spec = find_collection(self._collections, request.collection)
        problems: list[Violation] = []
        mode = _MODES.get(request.mode)
        if mode is None:
            raise rejected(
                [Violation(where="mode", expected="a SearchMode", got=str(request.mode))]
            )
        tree = self._filter_if_any(request, spec, problems)
        query = SearchQuery(
            collection=spec.name,
            mode=mode,
            vector=request.vector if request.HasField("vector") else None,
            text=request.text,
            alpha=request.alpha if request.HasField("alpha") else ALPHA_DEFAULT,
            filter=tree,
            limit=request.limit or SEARCH_LIMIT_DEFAULT,
            exact=request.exact if request.HasField("exact") else None,
            projection=_projection(request, spec),
        )
        problems += search_problems(query, spec, self._limits)
        if problems:
            raise rejected(problems)
        return spec, query

    def _filter_if_any(
        self,
        request: pb.ListRequest | pb.CountRequest | pb.SearchRequest,
        spec: CollectionSpec,
        problems: list[Violation],
    ) -> Filter | None:
        if not request.HasField("filter"):
            return None
        return self._filter(request.filter, spec, problems)

    def _filter(
        self, message: pb.Filter, spec: CollectionSpec, problems: list[Violation]
    ) -> Filter:
        reader = FilterReader(spec, self._limits)
        tree = reader.read(message)
        problems += reader.problems
        return tree


def _key(message: pb.Key, where: str, problems: list[Violation], skip: set[str]) -> Key:
    """Return the key; one that cannot be read is reported and added to `skip`."""
    before = len(problems)
    key = read_key(message, where, problems)
    if len(problems) > before:
        skip.add("key")
    return key


def _fields(
    message: Mapping[str, pb.Value],
    spec: CollectionSpec,
    where: str,
    problems: list[Violation],
    skip: set[str],
) -> dict[str, Value]:
    """Return the fields; one that cannot be read is reported and added to `skip`."""
    fields: dict[str, Value] = {}
    for name, value in message.items():
        item = spec.by_name.get(name)
        if item is None:
            fields[name] = None  # reported by the validation, which knows the names
            continue
        try:
            fields[name] = read_value(value, item.type)
        except BadValue as error:
            problems.append(error.at(f"{where}.{name}"))
            skip.add(name)
    return fields


def _projection(request: Masked, spec: CollectionSpec) -> Projection:
    """Return what to read; the key is always read, so a key field in the mask says nothing."""
    fields = None
    if request.HasField("field_mask"):
        fields = tuple(
            name for name in dict.fromkeys(request.field_mask.paths) if name not in spec.key
        )
    return Projection(fields=fields, vector=request.include_vector)
