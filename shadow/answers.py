"""One query as both stores saw it: the question, the two answers, and the evidence gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.canonical import differing_fields, record_digest, same_value
from proxy.layouts import ColumnKind, StoreSchema
from proxy.model import CollectionSpec, Key, Metric, Record
from proxy.query import Hit, SearchMode, SearchQuery, SearchResult
from proxy.vectors import same_space
from shadow.exact import exact_similarity
from shadow.metrics import Ranked
from shadow.semantics import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A query and what can be compared about it.

    Attributes:
        fields: value fields that both stores hold, in name order.
        vectors: both stores hold the vector, and the same one.
        by_rank: why the two stores' scores cannot be compared, "" if they can.
        sought: the vector that is searched for, None if there is none for both stores.
    """

    query: Query
    spec: CollectionSpec
    fields: tuple[str, ...]
    vectors: bool
    by_rank: str = ""
    sought: bytes | None = None

    @classmethod
    def of(cls, query: Query, old: StoreSchema, new: StoreSchema, *, by_rank: str = "") -> Question:
        """Return the question for a pair of stores."""
        name = query.collection
        fields = old.stored_value_fields(name) & new.stored_value_fields(name)
        vectors = all(
            any(column.kind is ColumnKind.VECTOR for column in schema.layouts[name].columns)
            for schema in (old, new)
        ) and same_space(old.collections[name].vector, new.collections[name].vector)
        by_vector = isinstance(query, SearchQuery) and query.mode is SearchMode.VECTOR
        return cls(
            query=query,
            spec=old.collections[name],
            fields=tuple(sorted(fields)),
            vectors=vectors,
            by_rank=by_rank,
            sought=query.vector if by_vector and isinstance(query, SearchQuery) else None,
        )

    @property
    def kind(self) -> str:
        """ "list", or "search" with its mode, filtered or not: what is aggregated together."""
        filtered = "" if self.query.filter is None else ", filtered"
        if isinstance(self.query, SearchQuery):
            return f"{self.query.mode.value} search{filtered}"
        return f"list{filtered}"

    def differing(self, left: Record, right: Record) -> tuple[str, ...]:
        """Name what differs between two full records, among what both stores hold."""
        names = differing_fields(self.spec, left, right, self.fields)
        return names if self.vectors else tuple(name for name in names if name != "vector")

    def seen_differently(self, left: Record, right: Record) -> tuple[str, ...]:
        """Name what differs among the fields that were read in both."""
        return tuple(
            name
            for name in self.fields
            if name in left.fields
            and name in right.fields
            and not same_value(self.spec.by_name[name].type, left.fields[name], right.fields[name])
        )

    def digest(self, record: Record | None) -> int | None:
        """Return the digest of a full record, None of none."""
        return None if record is None else record_digest(self.spec, record, self.fields)

    def exact_score(self, record: Record | None, metric: Metric | None) -> float | None:
        """Return the record's exact similarity to the query, None if that has no meaning."""
        if record is None or metric is None or self.by_rank:
            return None
        return exact_similarity(metric, self.sought, record.vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one store answered.

    Attributes:
        ranked: without scores where those of the two stores cannot be compared.
        metric: of the scores; None without any.
        duplicates: keys that it gave more than once.
    """

    store: str
    ranked: Ranked
    records: Mapping[Key, Record]
    latency_ms: float
    metric: Metric | None = None
    duplicates: int = 0

    @classmethod
    def of_search(
        cls, store: str, result: SearchResult, question: Question, *, latency_ms: float
    ) -> Answer:
        """Return the answer of a search."""
        scored = not question.by_rank
        best: dict[Key, Hit] = {}
        for hit in result.hits:
            best.setdefault(hit.record.key, hit)
        ordered = tuple(best.values())
        return cls(
            store=store,
            ranked=Ranked(
                ids=tuple(hit.record.key for hit in ordered),
                scores=tuple(hit.similarity for hit in ordered) if scored else (),
                limit=question.query.limit,
            ),
            records={hit.record.key: hit.record for hit in ordered},
            latency_ms=latency_ms,
            metric=result.metric if scored else None,
            duplicates=len(result.hits) - len(ordered),
        )

    @classmethod
    def of_list(
        cls, store: str, records: Sequence[Record], *, limit: int, latency_ms: float
    ) -> Answer:
        """Return the answer of a list."""
        by_key = {record.key: record for record in records}
        return cls(
            store=store,
            ranked=Ranked(ids=tuple(by_key), limit=limit),
            records=by_key,
            latency_ms=latency_ms,
            duplicates=len(records) - len(by_key),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How strict the comparison is.

    Attributes:
        score_epsilon: scores closer than this are tied.
        score_tolerance: a reported score further than this from the exact one (relative to
            1 + |score|) is wrong; it leaves room for float32 sums over thousands of dimensions.
    """

    score_epsilon: float = 1e-5
    score_tolerance: float = 1e-4

    def wrong(self, reported: float, exact: float) -> bool:
        """Return whether a reported score is not the exact one."""
        return abs(reported - exact) > self.score_tolerance * (1 + abs(exact))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the two stores hold of one differing key now; no record is kept.

    Attributes:
        differing: names of what differs among what both hold, "vector" included.
        changed: an answer showed another content than its store holds now.
        wrong_score: a sentence if a reported score is not the exact one, "" if it is.
        digests: of the two records (control, candidate), None where there is none.
    """

    on_control: bool
    on_candidate: bool
    differing: tuple[str, ...] = ()
    changed: bool = False
    wrong_score: str = ""
    digests: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found out about the differing keys after both answers were in.

    Attributes:
        fenced: dirty or unsettled at the start or at the end of the query.
        unstable: not the same on two looks at the same store.
        facts: one per differing key.
        looks: 1, or 2 when a difference was confirmed by a second look.
    """

    fenced: frozenset[Key] = frozenset()
    unstable: frozenset[Key] = frozenset()
    facts: Mapping[Key, Facts] = field(default_factory=dict)
    looks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two answers to one question, and how strictly they are compared."""

    question: Question
    control: Answer
    candidate: Answer
    policy: Policy

    def facts(self, key: Key, on_control: Record | None, on_candidate: Record | None) -> Facts:
        """Return the facts of one key from the full records that the stores hold now."""
        differing: tuple[str, ...] = ()
        if on_control is not None and on_candidate is not None:
            differing = self.question.differing(on_control, on_candidate)
        return Facts(
            on_control=on_control is not None,
            on_candidate=on_candidate is not None,
            differing=differing,
            changed=self._changed(self.control.records.get(key), on_control)
            or self._changed(self.candidate.records.get(key), on_candidate),
            wrong_score=self._wrong_score(self.control, key, on_candidate)
            or self._wrong_score(self.candidate, key, on_control),
            digests=(self.question.digest(on_control), self.question.digest(on_candidate)),
        )

    def _changed(self, shown: Record | None, now: Record | None) -> bool:
        if shown is None:
            return False
        return now is None or bool(self.question.seen_differently(shown, now))

    def _wrong_score(self, answer: Answer, key: Key, record: Record | None) -> str:
        """Compare a reported score with the exact one of the other store's own vector."""
        reported = answer.ranked.score_of().get(key)
        exact = self.question.exact_score(record, answer.metric)
        if reported is None or exact is None or not self.policy.wrong(reported, exact):
            return ""
        return f"the {answer.store} store scored it {reported:.6f}, exactly it is {exact:.6f}"
