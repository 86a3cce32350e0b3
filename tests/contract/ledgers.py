"""Short ways to write into a ledger under contract."""

from __future__ import annotations

from proxy.ledger.base import Ledger
from proxy.ledger.types import Intent, IntentDraft, Settlement

KEY = ("rust", "serde", "a/b")
OTHER = ("rust", "serde", 'quote"\\ \u00fc')


async def append(
    ledger: Ledger, replica: str, *keys: tuple[str, ...], idem: str = ""
) -> list[Intent]:
    """Append an upsert of each key by a replica."""
    epoch = (await ledger.routing()).epoch
    drafts = [
        IntentDraft(
            collection="documents", key=key, op="upsert", idempotency_key=idem, request_digest="d"
        )
        for key in keys
    ]
    return await ledger.append(drafts, epoch=epoch, replica_id=replica)


async def settle(ledger: Ledger, intent: Intent, *, clean: bool = True) -> None:
    """Settle an intent."""
    await ledger.settle([Settlement(intent=intent, clean=clean, reason="" if clean else "failed")])


async def dirty(ledger: Ledger) -> set[tuple[str | int, ...]]:
    """Return the keys of documents that are marked dirty."""
    return {item.key for item in await ledger.dirty_keys("documents", limit=100)}
