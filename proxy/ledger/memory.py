"""The whole ledger in memory, put together from its parts; the same contract as PostgreSQL's."""

from __future__ import annotations

from proxy.clock import Clock
from proxy.ledger.memory_copies import MemoryCopies
from proxy.ledger.memory_intents import MemoryIntents
from proxy.ledger.memory_jobs import MemoryJobs
from proxy.ledger.memory_routing import MemoryRouting
from proxy.ledger.memory_state import MemoryState


class MemoryLedger:
    """`Ledger` for one event loop, on a clock that is handed in; nothing survives the process."""

    def __init__(self, clock: Clock) -> None:
        self.state = MemoryState(clock=clock)
        intents, copies = MemoryIntents(self.state), MemoryCopies(self.state)
        jobs, routes = MemoryJobs(self.state), MemoryRouting(self.state)
        self.append, self.settle, self.recall = intents.append, intents.settle, intents.recall
        self.answered = intents.answered
        self.fenced, self.mark_dirty = intents.fenced, intents.mark_dirty
        self.unsettled, self.dirty_counts = intents.unsettled, intents.dirty_counts
        self.sweep, self.prune = intents.sweep, intents.prune
        self.begin_copy, self.finish_copy = copies.begin_copy, copies.finish_copy
        self.abandon_copy, self.settled_since = copies.abandon_copy, copies.settled_since
        self.dirty_keys, self.dead_letters = copies.dirty_keys, copies.dead_letters
        self.add_dead_letters = copies.add_dead_letters
        self.resolve_dead_letters = copies.resolve_dead_letters
        self.create_job, self.add_ranges = jobs.create_job, jobs.add_ranges
        self.claim_job, self.renew_job = jobs.claim_job, jobs.renew_job
        self.end_job, self.want = jobs.end_job, jobs.want
        self.job, self.jobs = jobs.job, jobs.jobs
        self.ranges, self.save_range = jobs.ranges, jobs.save_range
        self.add_differences, self.differences = jobs.add_differences, jobs.differences
        self.routing, self.change_routing = routes.routing, routes.change_routing
        self.register_replica = routes.register_replica
        self.renew_replica, self.release_replica = routes.renew_replica, routes.release_replica
        self.replicas, self.wait_change = routes.replicas, routes.wait_change
        self.set_flag, self.flags = routes.set_flag, routes.flags
        self.log_event, self.events = routes.log_event, routes.events
        self.put_shadow, self.shadow = routes.put_shadow, routes.shadow

    async def open(self) -> None:
        """See `Ledger.open`; nothing to do."""

    async def close(self) -> None:
        """See `Ledger.close`; nothing to do."""
