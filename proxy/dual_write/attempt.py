"""One attempt at a set of writes under one routing: what is asked of whom, and what came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.canonical import same_value
from proxy.dataplane import BatchItem, WriteAck
from proxy.dual_write.making import SideVector
from proxy.dual_write.outcome import StoreAnswer, dirty_reason, refusal
from proxy.dual_write.resolve import request_digest
from proxy.errors import Rejected, Unavailable
from proxy.ledger.types import Intent, IntentDraft, Settlement
from proxy.model import (
    Applied,
    CollectionSpec,
    JsonValue,
    Key,
    Record,
    Value,
    Write,
    WriteOp,
    WriteResult,
)


@dataclass(slots=True, kw_only=True)
class Item:
    """One write on its way.

    Attributes:
        asked: as the client gave it.
        idempotency_key: this write's own, "" for none.
        write: resolved, as the stores get it; None until then, or if that failed.
        target: the store whose answer the client gets, the primary but for records that only the
            other store can hold.
        one_sided: only `target` can hold it, so the other store is not asked.
        intent: its place in the ledger, None when the phase needs none.
        resolved: `write` before its vector was decided.
        merged: a store's vector depends on the stored record.
        other: the secondary's vector, if it is not decided by `write` alone.
        seen: the record after the write, its key's values too, where the secondary's vector is
            made of it.
        answer: what the primary and the secondary said.
        accepted: the primary held the record already, by an earlier try of the same request.
        error: what the client gets instead of an acknowledgement.
    """

    asked: Write
    idempotency_key: str = ""
    write: Write | None = None
    resolved: Write | None = None
    target: str = ""
    one_sided: bool = False
    intent: Intent | None = None
    merged: bool = False
    other: SideVector | None = None
    seen: Mapping[str, Value] | None = None
    primary: StoreAnswer = field(default_factory=StoreAnswer)
    secondary: StoreAnswer = field(default_factory=StoreAnswer)
    accepted: bool = False
    error: Exception | None = None

    @property
    def uncertain(self) -> bool:
        """True if the write may still land in a store."""
        return self.primary.uncertain or self.secondary.uncertain

    @property
    def replayed(self) -> bool:
        """True if an earlier try with the same idempotency key has answered already."""
        return self.intent is not None and self.intent.earlier is not None


def pending(items: Sequence[Item]) -> list[Item]:
    """Return the items that go to the stores: resolved, and not answered from the record."""
    return [item for item in items if item.write is not None and not item.replayed]


def intent_draft(item: Item, write: Write) -> IntentDraft:
    """Return the intent of one write; a key that comes twice in a batch has one for each."""
    return IntentDraft(
        collection=write.collection,
        key=write.key,
        op=write.op.value,
        idempotency_key=item.idempotency_key,
        request_digest=request_digest(item.asked) if item.idempotency_key else "",
    )


def secondary_write(item: Item, spec: CollectionSpec) -> Write | None:
    """Return what the secondary gets once the primary has answered; None if nothing is due.

    A patch reaches the secondary as the full record that the primary holds after it. What the
    primary's record had to be for a write says nothing about the secondary's.
    """
    write, result = item.write, item.primary.result
    if item.one_sided or write is None:
        return None
    if result is not None and result.applied is Applied.CHANGED:
        return None
    if write.op is not WriteOp.PATCH:
        return write if write.expected is None else replace(write, expected=None)
    if result is None or result.record is None:
        return None
    record = result.record
    return Write(
        op=WriteOp.UPSERT,
        collection=write.collection,
        key=write.key,
        fields={
            name: value for name, value in record.fields.items() if not spec.by_name[name].generated
        },
        vector=record.vector,
        set_vector=spec.vector is not None,
    )


UNCHANGED = StoreAnswer(result=WriteResult(applied=Applied.NOT_FOUND))
"""The answer of a secondary that was not asked, because the primary changed nothing."""


def may_be_ours(item: Item) -> bool:
    """True if "exists" may be the work of an earlier try of the same request."""
    result = item.primary.result
    resumed = item.intent is not None and item.intent.resumed
    return resumed and result is not None and result.applied is Applied.EXISTS


def accept_resumed(item: Item, stored: Record | None, spec: CollectionSpec) -> None:
    """Take "exists" for success if the primary holds what was asked for: an earlier try did it.

    Any other record of that key is somebody else's, and "exists" stays the answer.
    """
    if stored is not None and _holds_what_was_asked(item.asked, stored, spec):
        item.accepted = True
        item.primary = replace(item.primary, result=WriteResult(applied=Applied.DONE))


def follow_accepted(item: Item) -> None:
    """Let the secondary's "exists" count as the primary's does."""
    there = item.secondary.result
    if item.accepted and there is not None and there.applied is Applied.EXISTS:
        item.secondary = replace(item.secondary, result=WriteResult(applied=Applied.DONE))


def _holds_what_was_asked(asked: Write, stored: Record, spec: CollectionSpec) -> bool:
    fields = all(
        same_value(spec.by_name[name].type, value, stored.fields.get(name))
        for name, value in asked.fields.items()
        if not spec.by_name[name].generated
    )
    return fields and (asked.vector is None or asked.vector == stored.vector)


def settlement(item: Item, *, dual: bool) -> Settlement:
    """Return how the item's intent ends."""
    if item.intent is None or item.write is None:
        raise ValueError("an item without an intent has nothing to settle")
    reason = _dirty_reason(item, item.write, dual=dual)
    answer: dict[str, JsonValue] | None = None
    if item.primary.result is not None and refusal(item.write, item.primary.result) is None:
        answer = {
            "key": list(item.write.key),
            "existed": item.primary.result.applied is Applied.DONE
            and item.write.op is WriteOp.DELETE,
        }
    return Settlement(
        intent=item.intent,
        clean=not reason,
        reason=reason[:500],
        answer=answer,
        forget=_certainly_undone(item, item.write),
    )


def _certainly_undone(item: Item, write: Write) -> bool:
    """True if the primary did not do it, and no earlier try can have done it either.

    What is Corrupt may have been found out after the write was applied.
    """
    if item.intent is None or item.intent.resumed:
        return False
    result = item.primary.result
    refused = result is not None and refusal(write, result) is not None
    return refused or isinstance(item.primary.error, Unavailable | Rejected)


def _dirty_reason(item: Item, write: Write, *, dual: bool) -> str:
    """With one store written, by phase or by nature, no key is ever dirty."""
    if not dual or item.one_sided:
        return ""
    return dirty_reason(write.op, item.primary, item.secondary)


def answer(item: Item, *, dual: bool) -> BatchItem:
    """Return what the client gets: by the primary's outcome alone (step 6)."""
    if item.error is not None:
        return BatchItem(error=item.error)
    if item.replayed and item.intent is not None:
        return BatchItem(ack=replay(item.intent.key, item.intent.earlier or {}))
    if item.primary.error is not None:
        return BatchItem(error=item.primary.error)
    write, result = item.write, item.primary.result
    if write is None or result is None:
        raise ValueError("an item was answered before it was written")
    refused = refusal(write, result)
    if refused is not None:
        return BatchItem(error=refused)
    dirty = bool(_dirty_reason(item, write, dual=dual))
    existed = write.op is WriteOp.DELETE and result.applied is Applied.DONE
    ack = WriteAck(key=write.key, existed=existed, secondary_pending=dirty, record=result.record)
    return BatchItem(ack=ack)


def replay(key: Key, earlier: Mapping[str, JsonValue]) -> WriteAck:
    """Return the acknowledgement that was recorded for a write."""
    parts = earlier.get("key")
    if isinstance(parts, list):
        key = tuple(part for part in parts if isinstance(part, str | int))
    return WriteAck(key=key, existed=bool(earlier.get("existed")), replayed=True)
