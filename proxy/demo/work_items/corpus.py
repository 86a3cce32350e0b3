"""The demo's work items: those of the source, and as many seeded edits of them as are wanted."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from proxy.demo.options import Pace
from proxy.demo.work_items.items import PRIORITIES, STATUSES, Item, ItemValue
from proxy.demo.work_items.origin import Origin, Seedling
from proxy.demo.work_items.traps import odd_items
from proxy.model import JsonValue

AREAS = (
    "billing", "search", "onboarding", "the mobile client", "the audit log", "reporting",
    "the payment gateway", "notifications", "access control", "the data warehouse", "the editor",
    "localisation", "the scheduler", "backups", "the public API", "the admin console",
    "telemetry", "the import pipeline", "single sign-on", "the plugin host", "rate limiting",
    "the staging cluster", "document storage", "the recommendation engine",
)  # fmt: skip  # a list of words
_PEOPLE = ("ada", "grace", "edsger", "barbara", "ken", "王小明", "Zoë O'Neill")
_SAME_WORDS = 3  # so many editions in a row keep their words and change everything else
_QUESTIONS = 80
_QUESTION_WORDS = (5, 14)
_START = dt.datetime(2024, 2, 1, 9, 30, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What a run works on.

    Attributes:
        source: a sentence that says where it came from; `originals` items were found there.
        items: for the old table, before the migration; live: for live inserts.
        questions: texts to search for.
    """

    source: str
    originals: int
    items: Sequence[Item]
    live: Sequence[Item]
    questions: Sequence[str]

    @property
    def texts(self) -> list[str]:
        """The distinct texts to embed for the old table, in order."""
        return list(dict.fromkeys(item.text for item in self.items if item.text))

    def summary(self) -> Mapping[str, JsonValue]:
        """Return the report's account of the input."""
        return {
            "source": self.source,
            "vectors": "all-MiniLM-L6-v2",
            "documents": len(self.items),
            "originals": self.originals,
            "distinct_texts": len(self.texts),
            "live_documents": len(self.live),
            "queries": len(self.questions),
        }


def make_corpus(origin: Origin, pace: Pace, seed: int) -> Corpus:
    """Multiply the source's items by edits until there are as many as the pace asks for.

    The first edition of each item keeps its id and words. Ids, texts and every field of the
    others depend on the seed alone.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    odd = odd_items(rng)
    wanted = pace.documents - len(odd) + pace.live_documents
    made: list[Item] = []
    for edition in count():
        if len(made) >= wanted:
            break
        made += [_edited(seedling, edition, rng) for seedling in origin.seedlings]
    split = pace.documents - len(odd)
    return Corpus(
        source=origin.source,
        originals=len(origin.seedlings),
        items=[*made[:split], *odd],
        live=made[split:wanted],
        questions=_questions(origin.seedlings, pace.queries or _QUESTIONS),
    )


def release_of(edition: int) -> str:
    """Return the context tag that all items of one edition have in common."""
    return f"release-{edition}"


def _edited(seedling: Seedling, edition: int, rng: random.Random) -> Item:
    words = edition // _SAME_WORDS
    area = AREAS[words % len(AREAS)]
    suffix = "" if not words else f" for {area}"
    if words >= len(AREAS):
        suffix += f", part {words // len(AREAS) + 1}"
    description = seedling.description
    if description is not None and words and rng.random() < 0.03:
        description = None
    created = _START + dt.timedelta(
        days=edition, minutes=rng.randrange(1_000_000), microseconds=rng.randrange(1_000_000)
    )
    fields: dict[str, ItemValue] = {
        "item_id": seedling.id if not edition else f"{seedling.id[:8]}-{edition}",
        "title": seedling.title + suffix,
        "description": description,
        "item_type": seedling.kind,
        "tags": [*seedling.tags, *rng.sample(AREAS, rng.randrange(3))]
        if rng.random() > 0.1
        else [],
        "parent_id": _id(seedling.parent, edition) if seedling.parent else None,
        "dependencies": [_id(other, edition) for other in seedling.dependencies],
        "context_tags": [release_of(edition), *(["naïve ☃"] if rng.random() < 0.05 else [])],
        "notes": seedling.notes if rng.random() > 0.2 else None,
        "execution_instructions": None,  # an all-null column, until live clients fill it
        "created_at": created,
        "updated_at": created + dt.timedelta(seconds=rng.randrange(5_000_000)),
        "metadata": {**seedling.more, "edition": edition, "seen": [edition, None, "é"]},
        **_state(rng),
    }
    return Item(id=_id(seedling.id, edition), fields=fields)


def _state(rng: random.Random) -> dict[str, ItemValue]:
    """Return what a day's work changes of an item; each of it may be missing."""
    hours = rng.choice((None, 0.0, 0.25, 1.5, 8.0, rng.random() * 100))
    return {
        "status": rng.choice(STATUSES),
        "priority": rng.choice(PRIORITIES),
        "assignee": rng.choice((None, *_PEOPLE)),
        "estimated_hours": hours,
        "actual_hours": None if hours is None else hours * rng.random(),
        "progress": rng.choice((None, 0.0, 1.0, round(rng.random(), 2), 1 / 3)),
        "sequence_number": rng.choice((None, f"{rng.randrange(9)}.{rng.randrange(30)}")),
        "order_index": rng.randrange(100),
        "complexity": rng.choice((None, "simple", "moderate", "complex")),
        "acceptance_criteria": [
            f"It {verb} within {rng.randrange(1, 500)} ms"
            for verb in rng.sample(("answers", "starts", "stops", "recovers"), rng.randrange(4))
        ],
        "executable": rng.random() < 0.3,
    }


def _id(original: str, edition: int) -> str:
    """Return an item's id in an edition; other items of the edition link to it by this."""
    if not edition:
        return original
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{original} {edition}"))


def _questions(seedlings: Sequence[Seedling], limit: int) -> list[str]:
    """Return sentences about the items that are not their title, evenly over all of them."""
    least, most = _QUESTION_WORDS
    sentences = []
    for seedling in seedlings:
        words = (seedling.notes or seedling.description or "").split(". ")[0].split()
        if len(words) >= least:
            sentences.append(" ".join(words[:most]))
    step = max(1, len(sentences) // limit)
    return sentences[::step][:limit] or [seedlings[0].title]
