"""Deletes of more than one key: every key is enumerated on the primary, then each is a delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from proxy.dataplane import BatchItem, RequestContext, WriteAck
from proxy.dual_write.writer import DualWriter
from proxy.errors import Reason, Rejected
from proxy.model import CollectionSpec, Key, Write, WriteOp
from proxy.query import And, Compare, CompareOp, Filter, ListQuery
from proxy.routing.member import Membership
from proxy.stores.sides import Sides

_PAGE_KEYS = 500
_CASCADE_ROUNDS = 8


class Deletes:
    """Delete-where and the cascade from a parent to its children, as deletes by key.

    No store ever cascades by itself: a key that vanished without an intent would be a silent
    difference. A parent is deleted only where no child is left, so the enumeration is repeated
    while somebody keeps adding children (bounded).
    """

    def __init__(
        self,
        writer: DualWriter,
        sides: Sides,
        member: Membership,
        specs: Mapping[str, CollectionSpec],
    ) -> None:
        self._writer = writer
        self._sides = sides
        self._member = member
        self._specs = specs

    def has_children(self, collection: str) -> bool:
        """True if some collection names this one as its parent."""
        return bool(self._children(collection))

    def _children(self, collection: str) -> list[CollectionSpec]:
        return [
            spec
            for spec in self._specs.values()
            if spec.parent is not None and spec.parent.collection == collection
        ]

    async def delete_where(
        self, collection: str, filter: Filter, *, context: RequestContext
    ) -> int:
        """Delete every record that matched when the call began. Return how many were there."""
        deleted = 0
        async for keys in self._key_pages(collection, filter, context):
            if self.has_children(collection):
                for key in keys:
                    ack = await self.delete_tree(collection, key, context=_anonymous(context))
                    deleted += ack.existed
                continue
            writes = [_delete(collection, key) for key in keys]
            items = await self._writer.submit(writes, atomic=False, context=_anonymous(context))
            deleted += sum(_ack(item).existed for item in items)
        return deleted

    async def _key_pages(
        self, collection: str, filter: Filter, context: RequestContext
    ) -> AsyncIterator[list[Key]]:
        after: Key | None = None
        while True:
            store = self._sides.store(self._member.current.primary)
            query = ListQuery(collection=collection, filter=filter, after=after, limit=_PAGE_KEYS)
            keys = await store.list_keys(query, deadline_s=context.deadline_s)
            if keys:
                yield keys
            if len(keys) < _PAGE_KEYS:
                return
            after = keys[-1]

    async def delete_tree(self, collection: str, key: Key, *, context: RequestContext) -> WriteAck:
        """Delete a record after all that hangs on it.

        The idempotency key is the record's own: deletes of its children may be repeated.

        Raises:
            Rejected(FAILED_PRECONDITION): children kept appearing.
        """
        parent = _delete(collection, key)
        idem = f"{context.idempotency_key}#0" if context.idempotency_key else ""
        earlier = await self._writer.earlier(parent, idem) if idem else None
        if earlier is not None:
            return earlier
        for _ in range(_CASCADE_ROUNDS):
            last: list[Write] = []
            async for writes in self._descendants(collection, key, context):
                if last:
                    await self._delete_all(last, context)
                last = writes
            items = await self._delete_last(last, parent, idem, context)
            refused = [item.error for item in items if item.error is not None]
            if not refused:
                return _ack(items[-1])
            if not all(_is_blocked(error) for error in refused):
                raise refused[0]
            if idem:
                await self._writer.settle_now()
        raise Rejected(
            f"{collection} {list(key)} still has children after {_CASCADE_ROUNDS} rounds.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Stop whoever keeps adding children, then delete again.",
        )

    async def _descendants(
        self, collection: str, key: Key, context: RequestContext
    ) -> AsyncIterator[list[Write]]:
        """Yield deletes, deepest first, a page at a time."""
        for spec in self._children(collection):
            if spec.parent is None:
                continue
            parts = zip(spec.parent.fields, key, strict=True)
            belongs = And(
                parts=tuple(
                    Compare(field=name, op=CompareOp.EQ, value=part) for name, part in parts
                )
            )
            async for keys in self._key_pages(spec.name, belongs, context):
                for child in keys if self.has_children(spec.name) else ():
                    async for writes in self._descendants(spec.name, child, context):
                        yield writes
                yield [_delete(spec.name, child) for child in keys]

    async def _delete_last(
        self, children: list[Write], parent: Write, idem: str, context: RequestContext
    ) -> list[BatchItem]:
        """Delete the last children and the parent, in one transaction where the store has them.

        Where it has none, the children go first: whatever comes between leaves no orphan.
        """
        try:
            return await self._writer.submit(
                [*children, parent],
                atomic=True,
                context=context,
                idempotency_keys=[*[""] * len(children), idem],
            )
        except Rejected as error:
            # The writer alone knows which store it would have been: the roles may have swapped.
            if not children or error.reason is not Reason.UNIMPLEMENTED:
                raise
        await self._delete_all(children, context)
        return await self._writer.submit(
            [parent], atomic=True, context=context, idempotency_keys=[idem]
        )

    async def _delete_all(self, writes: list[Write], context: RequestContext) -> None:
        items = await self._writer.submit(writes, atomic=False, context=_anonymous(context))
        for item in items:
            if item.error is not None and not _is_blocked(item.error):
                raise item.error


def _is_blocked(error: Exception) -> bool:
    return isinstance(error, Rejected) and error.reason is Reason.FAILED_PRECONDITION


def _delete(collection: str, key: Key) -> Write:
    return Write(op=WriteOp.DELETE, collection=collection, key=key)


def _ack(item: BatchItem) -> WriteAck:
    if item.ack is None:
        raise item.error or AssertionError("a batch item is an answer or an error")
    return item.ack


def _anonymous(context: RequestContext) -> RequestContext:
    """Drop the idempotency key: deletes by key may be repeated as they are."""
    return RequestContext(
        request_id=context.request_id,
        targeting_key=context.targeting_key,
        deadline_s=context.deadline_s,
        attributes=context.attributes,
    )
