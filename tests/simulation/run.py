"""Run one seed from its plan to its verdict."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from unittest import mock

from proxy.ledger.types import EventDraft, JobKind, JobState, Phase, Routing
from proxy.model import JsonValue, Key, Write, WriteOp
from tests.simulation.bugs import Bug, planted
from tests.simulation.checkers import Ended, Finding, check_all
from tests.simulation.clients import Client
from tests.simulation.loop import START_S, SimLoop, Stuck
from tests.simulation.network import LATE_S, _drive
from tests.simulation.plan import Plan, make_plan
from tests.simulation.points import Reached
from tests.simulation.schema import COLLECTION
from tests.simulation.staff import Fate, Operator
from tests.simulation.watch import FILLED, contents, filled
from tests.simulation.world import World

TROUBLE_S = 8.0
QUIET_S = 60.0
_RETRIES = 12
_AGAIN_S = 6.0
"""Between two tries to go back: the copy of a reconciler that was killed blocks a swap for 60 s."""


@dataclass(slots=True)
class Verdict:
    """What came of a seed. `digest`: of everything that happened, in order."""

    seed: int
    findings: list[Finding]
    digest: int
    reached: Reached
    virtual_s: float = 0.0
    writes: int = 0
    trace: list[str] = field(default_factory=list)


def run_seed(
    seed: int, *, trace: bool = False, plan: Plan | None = None, bug: Bug | None = None
) -> Verdict:
    """Run a seed; the same seed does the same again, callback by callback."""
    loop = SimLoop(random.Random(f"{seed}/loop"))
    reached = Reached()
    with _deterministic(seed, loop), planted(bug):
        world = World(seed, plan or make_plan(seed), loop, reached)
        if trace:
            world.network.trace = []
        ended = Ended(history=world.history)
        try:
            loop.run_until_complete(loop.spawn("", _story(world, ended), "story"))
        except Stuck as error:
            ended.findings.append(Finding(checker="the run ends", text=str(error)))
        now_s = loop.time()
        world.network.over = True
        findings = [*world.watch.findings, *check_all(ended)]
        findings += [Finding(checker="no task fails", text=text) for text in loop.complaints[:3]]
        loop.dispose()
    return Verdict(
        seed=seed,
        findings=findings,
        digest=world.network.digest,
        reached=reached,
        virtual_s=now_s - START_S,
        writes=len(world.history.writes),
        trace=world.network.trace or [],
    )


@contextlib.contextmanager
def _deterministic(seed: int, loop: SimLoop) -> Iterator[None]:
    """Take names, and the time that the read path measures, from the run alone."""
    numbers = itertools.count(1)

    def name() -> uuid.UUID:
        return uuid.UUID(int=next(numbers) << 80)

    logging.disable(logging.CRITICAL)
    try:
        with (
            mock.patch("proxy.routing.member.uuid.uuid4", name),
            # Polling costs the simulation more than everything that happens.
            mock.patch("proxy.server.housekeeping._HOLD_POLL_S", 0.5),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


async def _story(world: World, ended: Ended) -> None:
    _set_out(world)
    for _ in range(world.plan.replicas):
        world.start_replica()
    for _ in range(world.plan.reconcilers):
        world.start_reconciler()
    while not world.names:
        await asyncio.sleep(0.05)
    operator = Operator(world)
    clients = [Client(world, number) for number in range(world.plan.clients)]
    loop = world.loop
    busy = [loop.spawn("", item.run(world.plan.writes_each), "client") for item in clients]
    walking = loop.spawn("", operator.run(), "operator")
    loop.spawn("", Fate(world).run(TROUBLE_S), "fate")
    await asyncio.wait(busy)
    operator.going = False
    await asyncio.wait([walking])
    for task in busy:
        task.result()
    world.calm = True
    world.network.calm()
    await _conclude(world, operator, ended)


def _set_out(world: World) -> None:
    """Put records into the stores and the routing in force, as the plan says."""
    plan = world.plan
    for at in range(0, plan.keys, 2):
        key: Key = (f"k{at}",)
        world.history.initial[key] = f"initial {at}"
    writes = [_record(key, body) for key, body in world.history.initial.items()]
    # Records that nobody touches give the backfill ranges to walk through.
    writes += [_record((f"still{at:02d}",), f"still {at}") for at in range(10)]
    world.history.initial.update({item.key: f"{item.fields['body']}" for item in writes})
    sides = ["old", "new"] if plan.start in FILLED else ["old"]
    for side in sides:
        _drive(world.stores[side].apply(writes, atomic=False, deadline_s=1.0))
    if plan.start is not Phase.OLD_ONLY:
        _route(world, Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old"), "dual_write")
    if plan.start in FILLED:
        ramp = Routing(epoch=0, phase=Phase.RAMP, primary="old", percent=plan.percent)
        _route(world, ramp, "")
    if plan.start is Phase.NEW_PRIMARY:
        _route(
            world,
            Routing(epoch=0, phase=Phase.NEW_PRIMARY, primary="new", percent=100.0),
            "swap",
        )
    if plan.start in FILLED:
        _drive(_prove(world))


async def _prove(world: World) -> None:
    """Have it on record that the stores were filled and compared: they are equal at the start."""
    ledger = world.ledger
    job = await ledger.create_job(JobKind.BACKFILL, {})
    await ledger.claim_job(job.job_id, owner="plan", lease_s=1.0)
    await ledger.end_job(job.job_id, owner="plan", state=JobState.DONE, summary={})
    verified: JsonValue = {
        "job_id": job.job_id,
        "at": world.clock.now().isoformat(),
        "epoch": ledger.state.routing.epoch,
        "clean": True,
    }
    await ledger.set_flag("last_verify", verified, actor="plan", reason="")


def _record(key: Key, body: str) -> Write:
    return Write(op=WriteOp.UPSERT, collection=COLLECTION, key=key, fields={"body": body})


def _route(world: World, routing: Routing, note: str) -> None:
    epoch = world.ledger.state.routing.epoch
    change = world.ledger.change_routing(
        epoch, routing, EventDraft(kind="phase", actor="plan"), note=note
    )
    _drive(change)
    world.watch.begin()


async def _conclude(world: World, operator: Operator, ended: Ended) -> None:
    """Wait for quiet, look at what is left, and let verify find what is damaged now."""
    if world.plan.ends == "rollback":
        ended.rolled_back = await _roll_back(world, operator)
    ended.quiet = await _quiet(world)
    state = world.ledger.state
    ended.final_s = world.clock.monotonic_s()
    ended.both = state.routing.phase not in (Phase.OLD_ONLY, Phase.NEW_ONLY)
    if state.routing.phase is Phase.DUAL_WRITE and not ended.quiet:
        if not await _backfilled(world, operator):
            ended.quiet = "no backfill came to its end in calm weather"
        ended.quiet = ended.quiet or await _quiet(world)
    primary = state.routing.primary
    other = "new" if primary == "old" else "old"
    ended.final = contents(world.stores[primary])
    ended.other = contents(world.stores[other])
    if ended.both and not ended.quiet and ended.final == ended.other:
        await _damage(world, operator, ended, other)


async def _no_jobs(world: World) -> None:
    """Wait until every job that was asked for has ended."""
    left = (JobState.REQUESTED, JobState.RUNNING)
    ends_s = world.clock.monotonic_s() + QUIET_S
    while world.clock.monotonic_s() < ends_s:
        if not any(job.state in left for job in world.ledger.state.jobs.values()):
            return
        await asyncio.sleep(0.25)


async def _backfilled(world: World, operator: Operator) -> bool:
    """Wait for a backfill that is under way, or for a new one."""
    await _no_jobs(world)
    return filled(world.ledger.state) or await _retried(operator, JobKind.BACKFILL) is not None


async def _retried(operator: Operator, kind: JobKind, **params: bool) -> int | None:
    for _ in range(3):
        number = await operator.job(kind, patience_s=QUIET_S, insist=True, **params)
        if number is not None:
            return number
    return None


async def _roll_back(world: World, operator: Operator) -> bool:
    """Go back to old_only; True once it is in force and everybody follows."""
    for _ in range(_RETRIES):
        phase = world.ledger.state.routing.phase
        if phase is Phase.OLD_ONLY:
            return True
        await operator.step(Phase.RAMP if phase is Phase.NEW_PRIMARY else Phase.OLD_ONLY)
        await asyncio.sleep(_AGAIN_S)
    return False


async def _quiet(world: World) -> str:
    """Wait until nothing is unsettled, dirty, held or stopped, and what was given up has landed.

    Return what is wrong if that never comes.
    """
    ends_s = world.clock.monotonic_s() + QUIET_S
    while world.clock.monotonic_s() < ends_s:
        await asyncio.sleep(0.5)
        if _restless(world):
            continue
        before = [contents(store) for store in world.stores.values()]
        await asyncio.sleep(LATE_S + 0.1)  # what was given up lands by now, or never
        after = [contents(store) for store in world.stores.values()]
        if before == after and not _restless(world):
            return ""
    return f"no quiet within {QUIET_S:g} s: {_restless(world) or 'writes go on'}"


def _restless(world: World) -> str:
    """Say what is still to come, "" if nothing is."""
    state = world.ledger.state
    unsettled = sum(item.settled_xid is None for item in state.intents.values())
    single = state.routing.phase in (Phase.OLD_ONLY, Phase.NEW_ONLY)
    dirty = 0 if single else len(state.dirty)
    stopped = world.loop.anybody_paused()
    if not (unsettled or dirty or state.routing.hold or stopped):
        return ""
    return (
        f"{unsettled} unsettled, {dirty} dirty, hold {state.routing.hold},"
        f" somebody stopped {stopped}"
    )


async def _damage(world: World, operator: Operator, ended: Ended, side: str) -> None:
    """Damage some rows behind the proxy's back, and let a verify name them."""
    await _no_jobs(world)
    rng = random.Random(f"{world.seed}/damage")
    store = world.stores[side]
    keys = sorted(ended.final)
    damaged: dict[Key, str] = {}
    writes: list[Write] = []
    for key in rng.sample(keys, rng.randint(0, min(4, len(keys)))):
        if rng.random() < 0.5:
            damaged[key] = "missing"
            writes.append(Write(op=WriteOp.DELETE, collection=COLLECTION, key=key))
        else:
            damaged[key] = "mismatched"
            writes.append(_record(key, "damaged"))
    for at in range(rng.randint(0, 2)):
        damaged[f"stray{at}",] = "extra"
        writes.append(_record((f"stray{at}",), "stray"))
    _drive(store.apply(writes, atomic=False, deadline_s=1.0))
    world.watch.ignore()
    ended.declared_live = world.watch.declared_live()
    job = await _retried(operator, JobKind.VERIFY)
    if job is None:
        ended.findings.append(
            Finding(checker="verify names what is damaged", text="no verify came to its end")
        )
        return
    found = world.ledger.state.differences[job].values()
    ended.damaged = damaged
    ended.declared = {item.key: item.kind for item in found}
    ended.quiet = await _quiet(world)
    ended.other = contents(store)


def replaced(plan: Plan, **changes: object) -> Plan:
    """Return a plan with some of it changed."""
    return replace(plan, **changes)  # type: ignore[arg-type]  # the caller names fields of Plan
