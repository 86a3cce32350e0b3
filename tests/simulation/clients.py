"""Clients of a run: they write and read a few keys through whichever replica answers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from proxy.dataplane import Got, RequestContext, WriteAck
from proxy.errors import CrossfadeError, Rejected
from proxy.model import Key, Write, WriteOp
from proxy.query import Projection
from tests.simulation.history import Outcome, Seen, Written
from tests.simulation.schema import COLLECTION

if TYPE_CHECKING:
    from tests.simulation.replica import Replica
    from tests.simulation.world import World

_OPS = ("upsert", "upsert", "upsert", "delete", "insert", "patch")
_TRIES = 3


class Client:
    """One client: it does one thing at a time, and sometimes it does not wait for the answer."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._name = f"client{number}"
        self._rng = random.Random(f"{world.seed}/{self._name}")
        self._keys = [(f"k{at}",) for at in range(world.plan.keys)]
        self._keeps = self._rng.random() < 0.5
        self._replica = ""

    async def run(self, writes: int) -> None:
        """Write so often, reading in between."""
        for _ in range(writes):
            await self._world.clock.sleep(self._rng.random() * 2 * self._world.plan.pace_s)
            key = self._rng.choice(self._keys)
            await self._write(key)
            for _ in range(self._rng.choice((0, 1, 1, 2))):
                seldom = self._rng.random() < 0.3
                await self._read(self._rng.choice(self._keys) if seldom else key)

    async def _ask(self) -> str:
        """Return the replica to ask; some clients stay with one."""
        while not (names := self._world.names):
            await self._world.clock.sleep(0.1)
        if not self._keeps or self._replica not in names or self._rng.random() < 0.1:
            self._replica = self._rng.choice(names)
        return self._replica

    async def _write(self, key: Key) -> None:
        world, rng = self._world, self._rng
        number = len(world.history.writes) + 1
        op = rng.choice(_OPS)
        item = Written(
            number=number,
            key=key,
            op=op,
            body=None if op == "delete" else f"{number}",
            began_s=world.clock.monotonic_s(),
            replica="",
        )
        world.history.writes.append(item)
        idem = f"w{number}" if rng.random() < 0.5 else ""
        for attempt in range(_TRIES if idem else 1):
            if attempt:
                await world.clock.sleep(rng.random() * 0.4)
            await self._try(item, idem)
            if item.outcome is not Outcome.UNKNOWN:
                break
        item.ended_s = world.clock.monotonic_s()
        if item.outcome is not Outcome.UNKNOWN:
            item.latest_s = item.ended_s

    async def _try(self, item: Written, idem: str) -> None:
        item.replica = await self._ask()
        deadline_s = self._rng.choice((0.2, 1.0, 5.0, 5.0))
        fickle = self._rng.random() < 0.12
        patience_s = self._rng.random() * 0.05 if fickle else deadline_s + 0.5
        context = _context(self._name, deadline_s, idem)
        asked = _write_of(item)

        async def work(replica: Replica) -> WriteAck:
            return await replica.plane.write(asked, context)

        try:
            ack = await self._world.rpc(item.replica, work, patience_s=patience_s)
        except Rejected as error:
            # A retry may be refused because its first try was done.
            item.outcome = Outcome.REFUSED if not idem else Outcome.UNKNOWN
            item.detail = error.message
        except (CrossfadeError, TimeoutError) as error:
            item.detail = str(error)
        else:
            item.outcome = Outcome.ACKNOWLEDGED
            item.existed = ack.existed

    async def _read(self, key: Key) -> None:
        replica = await self._ask()
        deadline_s = self._rng.choice((1.0, 3.0, 8.0))
        context = _context(f"tenant{self._rng.randint(1, 6)}", deadline_s)
        keys = [key]
        if self._rng.random() < 0.2:
            keys = self._rng.sample(self._keys, min(2, len(self._keys)))

        async def work(replica: Replica) -> Got:
            return await replica.plane.get(COLLECTION, keys, Projection(), context)

        began_s = self._world.clock.monotonic_s()
        try:
            got = await self._world.rpc(replica, work, patience_s=deadline_s + 0.5)
        except (CrossfadeError, TimeoutError):
            return
        ended_s = self._world.clock.monotonic_s()
        for asked, record in zip(keys, got.records, strict=True):
            self._world.history.reads.append(
                Seen(
                    key=asked,
                    body=None if record is None else f"{record.fields['body']}",
                    began_s=began_s,
                    ended_s=ended_s,
                    where=f"{self._name} from {got.served.store} through {replica}",
                )
            )


def _context(name: str, deadline_s: float, idem: str = "") -> RequestContext:
    return RequestContext(
        request_id=name, targeting_key=name, deadline_s=deadline_s, idempotency_key=idem
    )


def _write_of(item: Written) -> Write:
    fields = {} if item.body is None else {"body": item.body}
    return Write(op=WriteOp(item.op), collection=COLLECTION, key=item.key, fields=fields)
