"""Asking both stores and the ledger about one query: the candidate's answer, and the proof."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from proxy.clock import Clock
from proxy.embedding.queries import QueryEmbedder
from proxy.errors import CrossfadeError, Reason, Rejected, Unavailable
from proxy.ledger.types import CopySnapshot
from proxy.model import Key, Record
from proxy.query import SearchMode, SearchQuery
from proxy.stores.base import Store
from shadow.answers import Answer, Evidence, Facts, Pair, Policy, Question
from shadow.attribute import Case, Cause, attribute, differing_keys
from shadow.compare import Comparison, compare, needs_second_look
from shadow.metrics import tie_aware_overlap
from shadow.semantics import SemanticRule, cannot_hold

_KEYS_AT_ONCE = 64
"""Records fetched together: with 3,072 dimensions about 1 MB from each store."""


class Fence(Protocol):
    """The parts of the ledger that know which keys are or were in flight."""

    async def fenced(self, collection: str, keys: Collection[Key]) -> frozenset[Key]:
        """Return those of the keys that are dirty or have an unsettled intent, right now."""

    async def begin_copy(self, collection: str, *, copying: bool = True) -> CopySnapshot:
        """Register a watermark; with `copying` False it holds nobody up."""

    async def settled_since(self, snapshot: CopySnapshot, keys: Collection[Key]) -> frozenset[Key]:
        """Return the keys with an intent unsettled now, or newer than the watermark."""

    async def abandon_copy(self, snapshot: CopySnapshot) -> None:
        """Forget a watermark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The candidate did not answer a query that the control had answered."""

    error: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inconclusive:
    """The answers differ and nobody could say why: the ledger or a second read failed."""

    reason: str


class _NotEmbedded(Exception):
    """A text has no vector yet, and that is no store's fault."""


Outcome: TypeAlias = Comparison | Failed | Inconclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class Investigator:
    """Runs a query on the candidate and gathers what the attribution needs.

    Attributes:
        stores: by name, "old" and "new".
        deadline_s: for the candidate's answer, and once more for gathering the evidence.
        queries: embeds the text of a search for the store that is asked.
    """

    stores: Mapping[str, Store]
    fence: Fence
    clock: Clock
    policy: Policy
    semantic: SemanticRule
    deadline_s: float
    queries: QueryEmbedder = field(default_factory=QueryEmbedder)

    async def investigate(self, question: Question, control: Answer, candidate: str) -> Outcome:
        """Compare one served answer with the candidate's. Errors are outcomes, not exceptions."""
        try:
            async with asyncio.timeout(self.deadline_s):
                fenced = await self.fence.fenced(question.query.collection, control.ranked.ids)
        except (CrossfadeError, TimeoutError) as error:
            return Inconclusive(reason=_name(error))
        try:
            question = await self._sought(question, candidate)
        except _NotEmbedded:
            return Inconclusive(reason="embedder")
        try:
            async with asyncio.timeout(self.deadline_s):
                answer = await self.ask(candidate, question)
        except (CrossfadeError, TimeoutError) as error:
            message = str(error) or f"no answer within {self.deadline_s:g} s"
            return Failed(error=_name(error), message=message)
        pair = Pair(question=question, control=control, candidate=answer, policy=self.policy)
        try:
            async with asyncio.timeout(self.deadline_s):
                return await self._explain(pair, fenced)
        except (CrossfadeError, TimeoutError) as error:
            return Inconclusive(reason=_name(error))

    async def _sought(self, question: Question, candidate: str) -> Question:
        """Embed a text for the candidate beforehand: that it takes long is not its fault.

        Raises:
            _NotEmbedded: the embedder is down or has too much to do.
        """
        query = question.query
        if not isinstance(query, SearchQuery):
            return question
        try:
            async with asyncio.timeout(self.deadline_s):
                ready = await self._ready(candidate, query)
        except (Unavailable, TimeoutError) as error:
            raise _NotEmbedded from error
        except Rejected as error:
            if error.reason is Reason.RESOURCE_EXHAUSTED:
                raise _NotEmbedded from error
            return question  # the candidate cannot be asked this, and will be counted as failing
        if query.mode is not SearchMode.TEXT:
            return question
        return replace(question, sought=ready.vector)

    async def _ready(self, store: str, query: SearchQuery) -> SearchQuery:
        schema = self.stores[store].schema
        return await self.queries.for_store(query, schema, self.deadline_s)

    async def ask(self, store: str, question: Question) -> Answer:
        """Ask one store and time it; what embedding takes is not its time."""
        query = question.query
        if isinstance(query, SearchQuery):
            ready = await self._ready(store, query)
            started = self.clock.monotonic_s()
            result = await self.stores[store].search(ready, deadline_s=self.deadline_s)
            elapsed_ms = (self.clock.monotonic_s() - started) * 1000
            return Answer.of_search(store, result, question, latency_ms=elapsed_ms)
        started = self.clock.monotonic_s()
        records = await self.stores[store].list_records(query, deadline_s=self.deadline_s)
        elapsed_ms = (self.clock.monotonic_s() - started) * 1000
        return Answer.of_list(store, records, limit=query.limit, latency_ms=elapsed_ms)

    async def noise(self, control: Answer, question: Question) -> float | None:
        """Read the control again; return its overlap with itself, None if it did not answer."""
        try:
            async with asyncio.timeout(self.deadline_s):
                again = await self.ask(control.store, question)
        except (CrossfadeError, TimeoutError):
            return None
        return tie_aware_overlap(control.ranked, again.ranked, self.policy.score_epsilon)

    async def _explain(self, pair: Pair, fenced: frozenset[Key]) -> Comparison:
        """Look at every differing key on both stores, twice where a write could be the reason."""
        keys = tuple(differing_keys(pair))
        case = Case(
            pair=pair,
            semantic=self.semantic(pair.question.query),
            no_place=self._no_place(pair, keys),
        )
        if not keys:
            return compare(case)
        (facts,) = await self._facts(keys, pair)
        fenced |= await self.fence.fenced(pair.question.query.collection, keys)
        case = replace(case, evidence=Evidence(fenced=fenced, facts=facts))
        if needs_second_look(case, attribute(case)):
            case = await self._second_look(case, keys)
        return compare(case)

    async def _second_look(self, case: Case, keys: Sequence[Key]) -> Case:
        """Ask everything again under a watermark of the ledger.

        A key without an intent in flight at the watermark or appended since, and not dirty
        before or after, was not written between the reads: what still differs, differs.
        """
        collection = case.question.query.collection
        snapshot = await self.fence.begin_copy(collection, copying=False)
        try:
            fenced = snapshot.in_flight | await self.fence.fenced(collection, keys)
            again = replace(
                case.pair,
                control=await self.ask(case.control.store, case.question),
                candidate=await self.ask(case.candidate.store, case.question),
            )
            facts, facts_again = await self._facts(keys, case.pair, again)
            fenced |= await self.fence.fenced(collection, keys)
            fenced |= await self.fence.settled_since(snapshot, keys)
        finally:
            await self._forget(snapshot)
        first = case.evidence
        changed = {key for key in keys if facts[key].digests != first.facts[key].digests}
        evidence = Evidence(
            fenced=first.fenced | fenced, unstable=frozenset(changed), facts=facts, looks=2
        )
        return _confirmed(
            replace(case, evidence=evidence),
            replace(case, pair=again, evidence=replace(evidence, facts=facts_again)),
        )

    async def _forget(self, snapshot: CopySnapshot) -> None:
        """Give the watermark back; if the ledger does not answer, it expires by itself."""
        with suppress(CrossfadeError):
            await self.fence.abandon_copy(snapshot)

    async def _facts(self, keys: Sequence[Key], *pairs: Pair) -> list[dict[Key, Facts]]:
        """Read the keys on both stores once; return the facts for each pair of answers."""
        found: list[dict[Key, Facts]] = [{} for _ in pairs]
        stores, question = (pairs[0].control.store, pairs[0].candidate.store), pairs[0].question
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            chunk = keys[start : start + _KEYS_AT_ONCE]
            control, candidate = [await self._get(name, question, chunk) for name in stores]
            for pair, facts in zip(pairs, found, strict=True):
                for key in chunk:
                    facts[key] = pair.facts(key, control.get(key), candidate.get(key))
        return found

    async def _get(
        self, store: str, question: Question, keys: Sequence[Key]
    ) -> Mapping[Key, Record]:
        collection, chosen = question.query.collection, self.stores[store]
        layout = chosen.schema.layouts[collection]
        held = [key for key in keys if layout.holds(question.spec, key)]
        if not held:
            return {}
        return await chosen.get(collection, held, vectors=True, deadline_s=self.deadline_s)

    def _no_place(self, pair: Pair, keys: Sequence[Key]) -> dict[Key, str]:
        found: dict[Key, str] = {}
        for name in (pair.control.store, pair.candidate.store):
            for key in keys:
                reason = cannot_hold(
                    self.stores[name].schema, pair.question.query.collection, key, name
                )
                if reason:
                    found[key] = reason
        return found


def _confirmed(first: Case, again: Case) -> Case:
    """Return the first case with what the answers of the second look did not repeat as unstable.

    That the two stores hold other records is proven by the records themselves. That one of them
    did not return a record, or scored it wrong, must be seen in both pairs of answers.
    """
    repeated = {(item.key, item.cause) for item in attribute(again)}
    doubtful = {
        item.key
        for item in attribute(first)
        if item.cause in (Cause.INDEX_RECALL, Cause.VECTOR)
        and "vector" not in first.evidence.facts[item.key].differing
        and (item.key, item.cause) not in repeated
    }
    evidence = replace(first.evidence, unstable=first.evidence.unstable | doubtful)
    return replace(first, evidence=evidence)


def _name(error: Exception) -> str:
    """Name an error as it is counted: a deadline by that name, others by their class."""
    return "deadline" if isinstance(error, TimeoutError) else type(error).__name__
