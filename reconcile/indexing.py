"""Building the secondary's indexes after the load, watched, resumable, one builder at a time."""

from __future__ import annotations

import asyncio

from proxy.errors import Reason, Rejected, Unavailable
from proxy.stores.base import IndexState, Store
from reconcile.bench import Bench
from reconcile.checkpoint import JobRun

LOOK_EVERY_S = 1.0
"""How often the progress of a build is shown, and a request to stop is seen."""

OTHER_BUILDER_S_MAX = 3600.0
"""How long to wait for a build that somebody else has begun (a killed runner's goes on a while)."""


class IndexBuild:
    """Builds one index of the secondary."""

    def __init__(self, bench: Bench, run: JobRun, store: Store) -> None:
        self._bench = bench
        self._run = run
        self._store = store

    async def build(self, index: IndexState) -> None:
        """Build an index if it is not ready; stop the build if the job is to stop.

        Raises:
            Interrupted: the job was paused or cancelled; a resume builds it from the beginning.
            Rejected: the store cannot build it, or somebody else has been at it for an hour.
        """
        ends_s = self._bench.clock.monotonic_s() + OTHER_BUILDER_S_MAX
        while True:
            try:
                await self._bench.retry(lambda: self._watched(index), self._run.check)
                break
            except Rejected as error:
                busy = error.reason is Reason.FAILED_PRECONDITION
                if not busy or self._bench.clock.monotonic_s() >= ends_s:
                    raise
            await self._bench.clock.sleep(LOOK_EVERY_S)
            self._run.check()
            if await self._show(index):
                break
        self._run.progress.facts.pop("index", None)

    async def _watched(self, index: IndexState) -> None:
        """Run the build as a task of its own and look at it now and then."""
        build = asyncio.ensure_future(self._store.build_index(index.collection))
        try:
            while not build.done():
                await asyncio.wait({build}, timeout=LOOK_EVERY_S)
                self._run.check()
                if not build.done():
                    await self._show(index)
            build.result()
        finally:
            if not build.done():
                build.cancel()
                await asyncio.gather(build, return_exceptions=True)

    async def _show(self, index: IndexState) -> bool:
        """Put the store's own word on the build into the summary; True if the index is ready."""
        try:
            states = await self._store.index_states()
        except Unavailable:
            return False
        for state in states:
            if (state.collection, state.name) == (index.collection, index.name):
                self._run.progress.facts["index"] = f"{state.name}: {state.detail or 'ready'}"
                return state.ready
        return False
