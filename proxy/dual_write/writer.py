"""The dual write: resolve, lock, append the intent, write both stores, settle, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.config.settings import WriteSettings
from proxy.dataplane import BatchItem, RequestContext, WriteAck
from proxy.dual_write.attempt import (
    UNCHANGED,
    Item,
    answer,
    follow_accepted,
    intent_draft,
    pending,
    replay,
    secondary_write,
    settlement,
)
from proxy.dual_write.embed import Vectors
from proxy.dual_write.follow import Follower
from proxy.dual_write.locks import KeyLocks
from proxy.dual_write.making import EmbedLimits, Maker
from proxy.dual_write.numbers import Numbers
from proxy.dual_write.outcome import StoreAnswer
from proxy.dual_write.pace import Pace
from proxy.dual_write.primary import Primary, Terms
from proxy.dual_write.resolve import Decided, request_digest, resolve, wanted_numbers, with_key
from proxy.dual_write.room import Place, Room
from proxy.dual_write.spaces import Spaces
from proxy.dual_write.stores import apply_on
from proxy.dual_write.submission import (
    Submission,
    answer_early,
    answered_before,
    dropped,
    item_keys,
)
from proxy.dual_write.tasks import OwnedTasks, all_ended
from proxy.embedding.base import Embedder
from proxy.errors import (
    Ambiguous,
    CrossfadeError,
    LeaseLost,
    Reason,
    Rejected,
    StaleEpoch,
    Unavailable,
)
from proxy.ledger.base import IntentLog
from proxy.ledger.group_commit import AppendGroup, SettleQueue
from proxy.ledger.types import Phase, Routing
from proxy.model import CollectionSpec, Key, Write, WriteOp
from proxy.pausepoints import PausePoint, Reach, pass_by
from proxy.routing.member import Membership, Ticket
from proxy.routing.phases import secondary_of, writes_both
from proxy.stores.sides import Sides

_ADMISSIONS_MAX = 8
_LEASE_MARGIN_S = 0.5
_ALONE_KEYS_MAX = 10_000
_ANSWER_MARGIN_S = 0.05
_LEAST_S = 0.05
"""What a secondary is given at least, however long its vectors took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterParts:
    """What the writer is made of.

    Attributes:
        specs: the collections as clients see them; each store's schema has its own vectors.
        embedder: None if no collection has an embedding.
        embed_deadline_s: what any call to it may take.
        reach: called at the pause points of a write.
    """

    sides: Sides
    ledger: IntentLog
    append: AppendGroup
    settle: SettleQueue
    member: Membership
    clock: Clock
    specs: Mapping[str, CollectionSpec]
    embedder: Embedder | None = None
    embed_deadline_s: float = 30.0
    reach: Reach = pass_by


class DualWriter:
    """Applies writes as design section 3 says; every write runs to its end once it has begun."""

    def __init__(self, parts: WriterParts, settings: WriteSettings) -> None:
        self._parts = parts
        self._reach = parts.reach
        self._settings = settings
        self._locks = KeyLocks()
        self._numbers = Numbers(deadline_s=settings.primary_deadline_s)
        self._tasks = OwnedTasks()
        most, deadline_s = settings.in_flight_max, settings.primary_deadline_s
        self._pace = Pace(parts.clock, most=most, deadline_s=deadline_s)
        self._room = Room(self._pace, most=most, held=self._held, wait_s=settings.hold_max_s)
        spaces = Spaces(parts.sides, parts.specs)
        limits = EmbedLimits(
            deadline_s=parts.embed_deadline_s,
            primary_s=settings.primary_deadline_s,
            secondary_s=settings.secondary_deadline_s,
        )
        maker = Maker(parts.embedder, limits)
        self._vectors = Vectors(parts.sides, spaces, maker, parts.specs)
        self._primary = Primary(parts.sides, self._vectors, parts.specs)
        self._follower = Follower(parts.sides, spaces, maker)
        self.owes_full_verify = False
        self.written_alone: set[tuple[str, Key]] = set()

    @property
    def in_flight(self) -> int:
        """Requests whose writes have not ended."""
        return len(self._tasks)

    def _held(self) -> bool:
        routing = self._parts.member.routing
        return routing is not None and routing.hold

    async def drain(self, *, timeout_s: float) -> int:
        """Wait for the writes in flight; return how many still run."""
        return await self._tasks.wait_all(timeout_s=timeout_s)

    async def submit(
        self,
        writes: Sequence[Write],
        *,
        atomic: bool,
        context: RequestContext,
        idempotency_keys: Sequence[str] = (),
    ) -> list[BatchItem]:
        """Apply writes and return an item each, with errors as data.

        A caller that is cancelled or out of time leaves writes that have begun running to their
        end (W2); those that wait for a key or for the routing are dropped.

        Args:
            idempotency_keys: one a write, if they are not made from the context's.

        Raises:
            Rejected(RESOURCE_EXHAUSTED): too many writes in flight; nothing was done.
            Ambiguous: the client's time is over.
            Unavailable: it is over, and nothing was written.
        """
        place = self._room.ask()
        loop = asyncio.get_running_loop()
        submission = Submission(
            writes=writes,
            atomic=atomic,
            context=context,
            idempotency_keys=idempotency_keys or item_keys(context.idempotency_key, len(writes)),
            answered=loop.create_future(),
            ends_at_s=loop.time() + context.deadline_s,
        )
        self._tasks.start(self._run(submission, place), name=f"write {context.request_id}")
        try:
            async with asyncio.timeout(context.deadline_s):
                return await asyncio.shield(submission.answered)
        except TimeoutError as error:
            if not submission.begun:
                raise dropped() from error
            raise Ambiguous(
                f"The write did not end within {context.deadline_s:g} s.",
                where="proxy",
                timed_out=True,
                hint="It runs to its end; retry with the same idempotency key.",
            ) from error
        finally:
            submission.given_up = True

    async def earlier(self, write: Write, idempotency_key: str) -> WriteAck | None:
        """Return what was answered to a write under its idempotency key, None if nothing was.

        Raises:
            Rejected(FAILED_PRECONDITION): the key was used for another request.
            Unavailable: the ledger does not answer.
        """
        try:
            known = await self._parts.ledger.answered(idempotency_key, request_digest(write))
        except Unavailable:
            if self._settings.ledger_down != "primary_alone":
                raise
            return None
        return replay(write.key, known) if known is not None else None

    async def settle_now(self) -> None:
        """Settle what waits, so that an idempotency key may be used again."""
        await self._parts.settle.flush()

    async def _run(self, submission: Submission, place: Place) -> None:
        answered = submission.answered
        try:
            async with self._room.taken(place):
                items = await self._admit(submission)
        except Exception as error:  # noqa: BLE001  # handed to the client's own coroutine
            if not answered.done():
                answered.set_exception(error)
                answered.exception()  # marks it as seen: the client may be gone
        except BaseException:
            answered.cancel()
            raise
        else:
            if not answered.done():
                answered.set_result(items)

    async def _admit(self, submission: Submission) -> list[BatchItem]:
        """Run under the routing in force; under the next one if it ended before the append."""
        member = self._parts.member
        for _ in range(_ADMISSIONS_MAX):
            try:
                await self._prepare(submission)
                async with member.admit() as ticket:
                    return await self._attempt(submission, ticket)
            except (StaleEpoch, LeaseLost):
                await member.refresh()
        raise Unavailable(
            "The routing keeps changing under this write.", where="proxy", hint="Retry."
        )

    async def _prepare(self, submission: Submission) -> None:
        """Embed what the request says in full; it is not admitted yet, so no swap waits for it."""
        left_s = submission.ends_at_s - asyncio.get_running_loop().time()
        await self._vectors.prepare(
            submission.writes, self._parts.member.current, submission.made, left_s=left_s
        )
        if submission.given_up and not submission.begun:
            raise dropped()

    async def _attempt(self, submission: Submission, ticket: Ticket) -> list[BatchItem]:
        pairs = zip(submission.writes, submission.idempotency_keys, strict=True)
        items = [Item(asked=write, idempotency_key=idem) for write, idem in pairs]
        submission.items = items
        for item in items:
            try:
                await self._resolve(item, ticket)
            except CrossfadeError as error:
                if submission.atomic:
                    raise
                item.error = error
        ready = [item for item in items if item.write is not None]
        if submission.atomic and len({item.target for item in ready}) > 1:
            raise Rejected(
                "An atomic batch cannot mix records that only one store can hold with others.",
                reason=Reason.FAILED_PRECONDITION,
                hint="Send them in two batches.",
            )
        refusal = self._primary.never_whole(ready) if submission.atomic else None
        if refusal is not None and not await answered_before(self._parts.ledger, submission):
            raise refusal
        ids = [(item.write.collection, item.write.key) for item in ready if item.write]
        await self._reach(PausePoint.AFTER_ADMISSION)
        async with self._locks.hold(ids):
            decided = await self._decide_vectors(ready, submission, ticket)
            dual = await self._apply(decided, submission, ticket)
        return [answer(item, dual=dual) for item in items]

    async def _decide_vectors(
        self, ready: list[Item], submission: Submission, ticket: Ticket
    ) -> list[Item]:
        """Return the items whose vectors could be made; the others have their error."""
        left_s = submission.ends_at_s - asyncio.get_running_loop().time()
        await self._vectors.decide(ready, ticket.routing, submission.made, left_s=left_s)
        for item in ready:
            if item.error is not None and submission.atomic:
                raise item.error
        return [item for item in ready if item.write is not None]

    async def _resolve(self, item: Item, ticket: Ticket) -> None:
        """Step 1, under the ticket's routing: sequences and capabilities are the primary's."""
        asked, routing = item.asked, ticket.routing
        target = item.target = self._target(asked, routing)
        side = self._parts.sides[target]
        spec = self._parts.specs[asked.collection]
        stored = side.store.schema.layouts[asked.collection].stored_fields()
        key = asked.key
        if not key and item.idempotency_key:
            key = await self._parts.ledger.recall(item.idempotency_key) or ()
        if key:
            asked = with_key(asked, key)
        numbers = {
            name: await self._numbers.take(side, routing, asked.collection, name)
            for name in wanted_numbers(spec, asked, stored)
        }
        decided = Decided(now=self._parts.clock.now(), numbers=numbers)
        item.write = resolve(spec, asked, decided, stored=stored)
        other = self._parts.sides.store(secondary_of(routing))
        layout = other.schema.layouts[asked.collection]
        item.one_sided = target != routing.primary or not layout.holds(spec, item.write.key)

    def _target(self, write: Write, routing: Routing) -> str:
        """Return the store that answers for a write: the primary, or the only one to hold it."""
        spec = self._parts.specs[write.collection]
        primary = self._parts.sides.store(routing.primary)
        if not write.key or primary.schema.layouts[write.collection].holds(spec, write.key):
            return routing.primary
        if self._settings.one_sided_records == "new_alone" and routing.phase is not Phase.OLD_ONLY:
            return secondary_of(routing)
        raise Rejected(
            f"The {routing.primary} store cannot hold {write.collection} {list(write.key)}.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Write it after the cutover, or set writes.one_sided_records: new_alone.",
        )

    async def _apply(self, items: list[Item], submission: Submission, ticket: Ticket) -> bool:
        """Steps 2 to 5 for resolved items whose locks are held; True if both stores were due."""
        dual = writes_both(ticket.routing.phase)
        if not items:
            return dual
        await self._check_lease(ticket)
        for target in {item.target for item in items}:
            self._refuse_open_breaker(target)
        if submission.given_up and not submission.begun:
            raise dropped()
        submission.begun = True
        await self._reach(PausePoint.BEFORE_INTENT_APPEND)
        if dual or any(submission.idempotency_keys):
            try:
                await self._append(items, ticket)
            except (StaleEpoch, LeaseLost):
                raise
            except Unavailable as error:
                if error.where != "ledger":
                    raise
                # The answer may be lost and the intents there: nobody could settle them.
                self._parts.member.forsake(ticket.replica_id)
                if self._settings.ledger_down != "primary_alone":
                    raise
                if dual:
                    self._note_alone(items)
                dual = False
        try:
            await self._reach(PausePoint.AFTER_INTENT_APPEND)
            await self._write_stores(items, submission, ticket, dual=dual)
            await self._reach(PausePoint.BEFORE_SETTLE)
        finally:
            self._settle(pending(items), ticket, dual=dual)
        return dual

    def _note_alone(self, items: list[Item]) -> None:
        """Remember what the ledger has to be told: past the bound only that there was something."""
        self.owes_full_verify = True
        for item in items:
            if item.write is not None and len(self.written_alone) < _ALONE_KEYS_MAX:
                self.written_alone.add((item.write.collection, item.write.key))

    def _settle(self, items: list[Item], ticket: Ticket, *, dual: bool) -> None:
        """Step 5, behind the answer; for a write that may still land, not before it cannot."""
        late_s = self._settings.late_write_s
        if any(item.uncertain for item in items):
            self._parts.member.linger(ticket, late_s)
        for delay_s, uncertain in ((0.0, False), (late_s, True)):
            closed = [
                settlement(item, dual=dual)
                for item in items
                if item.intent is not None and item.uncertain is uncertain
            ]
            self._parts.settle.add(closed, delay_s=delay_s)

    async def _check_lease(self, ticket: Ticket) -> None:
        """Step 2: store calls must end before the lease does."""
        if self._parts.member.lease_left_s() <= 2 * _LEASE_MARGIN_S:
            try:
                await self._parts.member.refresh()
            except Unavailable:
                if self._settings.ledger_down != "primary_alone":
                    raise
        if self._lease_over(ticket):
            raise LeaseLost("The lease ran out before the write began.", where="ledger")

    def _refuse_open_breaker(self, primary: str) -> None:
        if self._parts.sides[primary].breaker.state == "open":
            raise Unavailable(
                f"The {primary} store keeps failing; writes are refused until it answers.",
                where=primary,
                hint="Retry with backoff.",
            )

    async def _append(self, items: list[Item], ticket: Ticket) -> None:
        """Step 3: one intent a write, durable when this returns."""
        drafts = [intent_draft(item, item.write) for item in items if item.write is not None]
        intents = await self._parts.append.append(
            drafts, epoch=ticket.routing.epoch, replica_id=ticket.replica_id
        )
        due = [item for item in items if item.write is not None]
        for item, intent in zip(due, intents, strict=True):
            item.intent = intent

    async def _write_stores(
        self, items: list[Item], submission: Submission, ticket: Ticket, *, dual: bool
    ) -> None:
        """Step 4: both at once; what only the primary knows the result of, there first."""
        due, routing = pending(items), ticket.routing
        if self._lease_over(ticket):
            # Nothing has been sent; the intents are settled as dirty, the write begins anew.
            raise LeaseLost("The lease ran out before the stores were called.", where="ledger")
        alone = [item for item in due if not dual or item.target != routing.primary]
        both = [item for item in due if dual and item.target == routing.primary]
        for target in sorted({item.target for item in alone}):
            part = [item for item in alone if item.target == target]
            await self._write_primary(part, target, ticket, submission)
        if both:
            await self._write_both(both, submission, ticket)
        for item in due:
            follow_accepted(item)

    async def _write_both(self, both: list[Item], submission: Submission, ticket: Ticket) -> None:
        primary, secondary = ticket.routing.primary, secondary_of(ticket.routing)
        early = self._settings.ack == "primary"
        ordered = any(item.asked.op is WriteOp.PATCH or item.merged for item in both)
        # Near the end of the client's time the primary's answer alone must do (W3).
        patience_s = min(_ANSWER_MARGIN_S, submission.context.deadline_s / 10)
        timers: list[asyncio.TimerHandle] = []

        async def write_primary() -> None:
            await self._write_primary(both, primary, ticket, submission)
            at_s = 0.0 if early else submission.ends_at_s - patience_s
            loop = asyncio.get_running_loop()
            timers.append(loop.call_at(at_s, answer_early, submission))

        try:
            if ordered or early:
                await write_primary()
                await self._write_secondary(both, secondary, ticket, submission)
                return
            # A store that is still written to must not be repaired: nothing is settled before.
            await all_ended(
                write_primary(), self._write_secondary(both, secondary, ticket, submission)
            )
        finally:
            for timer in timers:
                timer.cancel()

    def _lease_over(self, ticket: Ticket) -> bool:
        """True if the ticket's identity is taken for dead: its intents may have been taken over.

        A replica that was paused past its lease may have a new identity, and another routing,
        before its old writes wake up.
        """
        member = self._parts.member
        alone = self._settings.ledger_down == "primary_alone"
        expired = not alone and member.lease_left_s() <= 0
        return expired or ticket.replica_id != member.replica_id

    def _deadline_s(self, wanted_s: float) -> float:
        """A store call ends before the lease does, so that nobody repairs under a running write."""
        if self._settings.ledger_down == "primary_alone":
            return wanted_s
        left_s = self._parts.member.lease_left_s()
        return min(wanted_s, max(left_s / 2, left_s - _LEASE_MARGIN_S))

    async def _write_primary(
        self, due: list[Item], target: str, ticket: Ticket, submission: Submission
    ) -> None:
        terms = Terms(
            routing=ticket.routing,
            atomic=submission.atomic,
            made=submission.made,
            wait_s=lambda: self._deadline_s(self._settings.primary_deadline_s),
            over=lambda: self._lease_over(ticket),
        )
        with self._pace.measured(lambda: self.in_flight):
            await self._primary.write(due, target, terms)
        await self._reach(PausePoint.AFTER_PRIMARY_WRITE)

    async def _write_secondary(
        self, due: list[Item], target: str, ticket: Ticket, submission: Submission
    ) -> None:
        clock, began_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        wait_s = self._deadline_s(self._settings.secondary_deadline_s)
        specs = self._parts.specs
        asked = [(item, secondary_write(item, specs[item.asked.collection])) for item in due]
        fitted = await self._follower.fit(asked, target, submission.made, deadline_s=wait_s)
        writes = [write for write, _ in fitted if write is not None]
        answers = [StoreAnswer(skipped="the lease ran out")] * len(writes)
        if writes and not self._lease_over(ticket):
            deadline_s = self._deadline_s(max(_LEAST_S, wait_s - (clock.time() - began_s)))
            answers = await apply_on(
                self._parts.sides[target], writes, atomic=submission.atomic, deadline_s=deadline_s
            )
        told = iter(answers)
        for item, (write, trouble) in zip(due, fitted, strict=True):
            if write is not None:
                item.secondary = next(told)
            else:
                item.secondary = StoreAnswer(skipped=trouble) if trouble else UNCHANGED
        await self._reach(PausePoint.AFTER_SECONDARY_WRITE)
