"""Group commit: one ledger flush serves many writers; settling is lazy and batched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.clock import Clock
from proxy.errors import Corrupt, LeaseLost, Rejected, StaleEpoch, Unavailable
from proxy.ledger.base import IntentLog
from proxy.ledger.types import Intent, IntentDraft, Settlement

log = logging.getLogger(__name__)

_RETRY_S = (0.05, 0.2, 0.5, 1.0)


@dataclass(slots=True)
class _Waiting:
    """One writer's drafts, waiting for a flush under its epoch."""

    drafts: Sequence[IntentDraft]
    epoch: int
    replica_id: str
    done: asyncio.Future[list[Intent]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class AppendGroup:
    """Appends the intents of concurrent writers together.

    A writer that finds no flush under way starts one at once; those that come meanwhile share the
    next one. So one writer pays no delay, and many pay one commit.

    Args:
        rows_max: intents a flush at most.
    """

    def __init__(self, ledger: IntentLog, *, rows_max: int) -> None:
        self._ledger = ledger
        self._rows_max = rows_max
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        """See `IntentLog.append`. The caller must not be cancelled (rule W2: it is shielded)."""
        waiting = _Waiting(drafts=drafts, epoch=epoch, replica_id=replica_id)
        self._waiting.append(waiting)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_all(), name="ledger-append")
        return await waiting.done

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                await self._flush(self._take())
        finally:
            self._flushing = None

    def _take(self) -> list[_Waiting]:
        """Take writers of one epoch, up to the bound, in order of arrival."""
        first = self._waiting[0]
        taken: list[_Waiting] = []
        left: list[_Waiting] = []
        rows = 0
        for item in self._waiting:
            same = item.epoch == first.epoch and item.replica_id == first.replica_id
            fits = not taken or rows + len(item.drafts) <= self._rows_max
            if same and fits:
                taken.append(item)
                rows += len(item.drafts)
            else:
                left.append(item)
        self._waiting = left
        return taken

    async def _flush(self, group: list[_Waiting]) -> None:
        drafts = [draft for item in group for draft in item.drafts]
        first = group[0]
        try:
            intents = await self._ledger.append(
                drafts, epoch=first.epoch, replica_id=first.replica_id
            )
        except (StaleEpoch, LeaseLost) as error:
            _fail(group, error)
        except (Rejected, Unavailable) as error:
            # One writer's idempotency key must not fail its neighbours.
            if len(group) == 1 or (isinstance(error, Unavailable) and error.where == "ledger"):
                _fail(group, error)
                return
            for item in group:
                await self._flush([item])
        except BaseException as error:
            _fail(group, error)
            if not isinstance(error, Exception):
                raise
        else:
            start = 0
            for item in group:
                item.done.set_result(intents[start : start + len(item.drafts)])
                start += len(item.drafts)


def _fail(group: list[_Waiting], error: BaseException) -> None:
    for item in group:
        if not item.done.done():
            if isinstance(error, asyncio.CancelledError):
                item.done.cancel()
            else:
                item.done.set_exception(error)


def _tell_nobody(replica_id: str) -> None:
    """A queue that stands alone has no replica to rename."""


class SettleQueue:
    """Settles intents behind the answers, in batches.

    A crash before a settle costs a needless repair, nothing else. While the ledger is down the
    settlements wait here; past `rows_max` the oldest are dropped, and the sweep of this replica's
    lease, or the next settle of the key, makes their keys dirty.

    Args:
        delay_s: how long a settlement waits for company.
        on_drop: told the replica whose settlements were dropped. It must go on under another
            name, or nobody ever takes their intents over.
    """

    def __init__(
        self,
        ledger: IntentLog,
        clock: Clock,
        *,
        delay_s: float,
        rows_max: int = 50_000,
        on_drop: Callable[[str], None] = _tell_nobody,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._delay_s = delay_s
        self._rows_max = rows_max
        self._on_drop = on_drop
        self._queue: list[Settlement] = []
        self._wake = asyncio.Event()
        self._flush_lock = asyncio.Lock()
        self._delayed: set[asyncio.Task[None]] = set()
        self.dropped = 0

    def add(self, settlements: Sequence[Settlement], *, delay_s: float = 0.0) -> None:
        """Take settlements; returns at once.

        Args:
            delay_s: they are not settled before: their writes may still land.
        """
        if not settlements:
            return
        if delay_s > 0:
            task = asyncio.create_task(self._add_later(settlements, delay_s), name="settle-later")
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)
            return
        self._queue.extend(settlements)
        self._trim()
        self._wake.set()

    async def _add_later(self, settlements: Sequence[Settlement], delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        self.add(settlements)

    async def wait_delayed(self, *, timeout_s: float) -> None:
        """Wait until nothing is delayed any more, or the time is over."""
        if self._delayed:
            await asyncio.wait(set(self._delayed), timeout=timeout_s)

    def _trim(self) -> None:
        excess = len(self._queue) - self._rows_max
        if excess > 0:
            owners = {item.intent.replica_id for item in self._queue[:excess]}
            del self._queue[:excess]
            self.dropped += excess
            for replica_id in owners:
                self._on_drop(replica_id)
            log.error("settlements dropped, their keys wait for the sweep: %d", excess)

    @property
    def depth(self) -> int:
        """Settlements that wait, without those that are delayed."""
        return len(self._queue)

    async def run(self) -> None:
        """Settle until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            await self._clock.sleep(self._delay_s)
            try:
                await self.flush()
                failures = 0
            except (Unavailable, Corrupt) as error:
                pause_s = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
                log.warning("settling waits for the ledger: %s", error)
                await self._clock.sleep(pause_s)

    async def flush(self) -> None:
        """Settle everything that waits now. Raises Unavailable; then it still waits."""
        async with self._flush_lock:
            while self._queue:
                batch, self._queue = self._queue[:1000], self._queue[1000:]
                try:
                    await self._ledger.settle(batch)
                except BaseException:
                    self._queue[:0] = batch
                    raise
            self._wake.clear()
