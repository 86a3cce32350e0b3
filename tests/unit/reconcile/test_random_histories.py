"""Random live traffic, crashes and copiers, step by step: both stores end equal to the primary."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from proxy.errors import CrossfadeError
from proxy.ledger.types import Intent, IntentDraft, JobKind, JobState, Settlement
from proxy.model import Applied, Key, Write
from reconcile.snapshot import Step
from tests.doc_server import delete, document
from tests.unit.reconcile.support import Killed, Mortal, Rig, doc

REPLICAS = ("a", "b")
KEYS = 14


@dataclass
class Traffic:
    """Writers on two replicas whose every step is taken at a random moment.

    `acknowledged` is what each key's last acknowledged write left on the primary.
    """

    rig: Rig
    rng: random.Random
    numbers: int = 0
    open: list[tuple[str, Intent, Write, list[str]]] = field(default_factory=list)
    replicas: dict[str, str] = field(default_factory=dict)

    async def start(self) -> None:
        for name in REPLICAS:
            await self._register(name)

    async def _register(self, name: str) -> None:
        self.numbers += 1
        self.replicas[name] = f"{name}{self.numbers}"
        await self.rig.ledger.register_replica(
            self.replicas[name], address="", lease_s=1e6, ledger_down="refuse"
        )
        routing = await self.rig.ledger.routing()
        await self.rig.ledger.renew_replica(
            self.replicas[name], acked_epoch=routing.epoch, lease_s=1e6
        )

    async def step(self) -> None:
        """Take one random step of one writer."""
        for _ in range(self.rng.randrange(4)):
            if self.open and self.rng.random() < 0.65:
                await self._go_on()
            elif self.rng.random() < 0.03:
                await self._crash(self.rng.choice(REPLICAS))
            else:
                await self._begin()

    async def _begin(self) -> None:
        name = self.rng.choice(REPLICAS)
        key = doc(self.rng.randrange(KEYS))
        if any(at == name and write.key == key for at, _, write, _ in self.open):
            return  # the key's lock in that process
        self.numbers += 1
        write = (
            delete("documents", key)
            if self.rng.random() < 0.4
            else document(str(key[-1]), packed=None, content=f"write {self.numbers}")
        )
        epoch = (await self.rig.ledger.routing()).epoch
        draft = IntentDraft(collection="documents", key=key, op=write.op.value)
        (intent,) = await self.rig.ledger.append(
            [draft], epoch=epoch, replica_id=self.replicas[name]
        )
        stores = ["old", "new"]
        self.rng.shuffle(stores)
        self.open.append((name, intent, write, stores))

    async def _go_on(self) -> None:
        name, intent, write, stores = self.open.pop(self.rng.randrange(len(self.open)))
        if stores:
            side = stores.pop()
            fails = self.rng.random() < 0.1  # it failed or timed out: nobody knows which
            landed = True
            if not fails or self.rng.random() < 0.5:
                landed = await self._apply(write, side)
            if fails or not landed:
                await self.rig.ledger.settle([_ended(intent, clean=False)])
            else:
                self.open.append((name, intent, write, stores))
            return
        await self.rig.ledger.settle([_ended(intent, clean=True)])

    async def _apply(self, write: Write, side: str) -> bool:
        store = self.rig.stores[side]
        (result,) = await store.apply([write], atomic=False, deadline_s=5)
        return result.applied in (Applied.DONE, Applied.NOT_FOUND)

    async def _crash(self, name: str) -> None:
        """The replica dies: its writes stop where they are; the sweep takes its intents over."""
        await self.rig.ledger.release_replica(self.replicas[name])
        self.open = [item for item in self.open if item[0] != name]
        await self.rig.ledger.sweep()
        await self._register(name)

    async def finish(self) -> None:
        while self.open:
            await self._go_on()


def _ended(intent: Intent, *, clean: bool) -> Settlement:
    return Settlement(intent=intent, clean=clean, reason="" if clean else "a store failed")


@dataclass
class Doom:
    """What a job does at each step: live traffic goes on, and at one of them the process dies."""

    traffic: Traffic
    mortal: Mortal
    visits_left: int
    deadly: bool

    async def reach(self, step: Step) -> None:
        await self.traffic.step()
        self.visits_left -= 1
        if self.deadly and self.visits_left == 0:
            self.mortal.die()
            raise Killed
        await asyncio.sleep(0)


async def run_to_its_end(rig: Rig, rng: random.Random, kind: JobKind, traffic: Traffic) -> None:
    """Run a job whose process is killed now and then, until one run ends it."""
    for attempt in range(20):
        doom = Doom(
            traffic,
            Mortal(rig.ledger),
            visits_left=rng.randrange(1, 25),
            deadly=rng.random() < 0.5 and attempt < 4,
        )
        rig.reach = doom.reach  # type: ignore[method-assign]  # to be killed there
        runner = rig.reconciler(f"runner-{attempt}", doom.mortal, workers=rng.choice((1, 2)))
        try:
            job = await runner.run_once(kind, {})
        except (Killed, CrossfadeError):
            rig.clock.passed_s += 120
            continue
        assert job.state is JobState.DONE, job.error
        return
    raise AssertionError("the job never ended")


async def quiet(step: Step) -> None:
    """No traffic any more."""


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_both_stores_end_as_the_primary(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    rig = await Rig().start()
    await rig.fill(KEYS)
    await rig.put(*(document(f"1{n:04d}.html", packed=None) for n in range(30)), on="old")
    if rng.random() < 0.5:
        await rig.fill(KEYS, on="new")
    traffic = Traffic(rig, rng)
    await traffic.start()
    for _ in range(rng.randrange(12)):
        await traffic.step()
    for kind in (JobKind.BACKFILL, JobKind.VERIFY, JobKind.REPAIR):
        await run_to_its_end(rig, rng, kind, traffic)
        await check_marks(rig, traffic)
    await traffic.finish()
    rig.clock.passed_s += 120
    rig.reach = quiet  # type: ignore[method-assign]  # nothing happens there
    assert (await rig.run(JobKind.REPAIR)).state is JobState.DONE
    assert await rig.dirty() == set()
    assert await rig.ledger.unsettled() == 0
    assert await rig.differing() == []


async def check_marks(rig: Rig, traffic: Traffic) -> None:
    """A key that differs is dirty or in flight: a fenced read never sees the wrong side."""
    busy: set[Key] = {write.key for _, _, write, _ in traffic.open}
    dirty = {key for _, key in await rig.dirty()}
    differing = {key for _, key in await rig.differing()}
    assert differing <= busy | dirty, differing - busy - dirty
