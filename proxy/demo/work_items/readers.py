"""Live clients that read work items: by id, by filters and by searches, each answer checked."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from crossfade.client import F, Filter

from proxy.demo.oracle import agrees
from proxy.demo.traffic import Pacer, Traffic
from proxy.demo.work_items import application as app
from proxy.demo.work_items.items import PRIORITIES, STATUSES, Item, image_of, text_of
from proxy.demo.work_items.plan import by_release

Search: TypeAlias = Callable[..., Awaitable[list[app.Found]]]

_LIMIT = 10
_SAME = 0.999  # a text searched for by itself has the similarity 1, but for rounding
_WORD = re.compile(r"^[A-Za-z]{6,}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A condition in the application's words, and the same to judge answers by."""

    words: str
    filter: Filter
    holds: Callable[[Mapping[str, object]], bool]


def questions_about(release: str, rng: random.Random) -> Question:
    """Return a condition on the items of one release: equal, one of, less than, null, or not."""
    status, priority = rng.choice(STATUSES), rng.choice(PRIORITIES)
    less = rng.random()
    choices = (
        Question(
            words=f"status {status}",
            filter=F("status") == status,
            holds=lambda image: image["status"] == status,
        ),
        Question(
            words=f"progress < {less}",
            filter=F("progress") < less,
            holds=lambda image: image["progress"] is not None and _number(image, "progress") < less,
        ),
        Question(
            words="no assignee",
            filter=F("assignee").is_null(),
            holds=lambda image: image["assignee"] is None,
        ),
        Question(
            words=f"executable or not {priority}",
            filter=(F("executable") == True) | (F("priority") != priority),  # noqa: E712  # builds a filter
            holds=lambda image: (
                image["executable"] is True
                or (image["priority"] is not None and image["priority"] != priority)
            ),
        ),
    )
    chosen = rng.choice(choices)
    return Question(
        words=f"{release}, {chosen.words}",
        filter=F("context_tags").contains_any(release, "no such tag") & chosen.filter,
        holds=lambda image: release in _texts(image, "context_tags") and chosen.holds(image),
    )


def _number(image: Mapping[str, object], name: str) -> float:
    value = image[name]
    return value if isinstance(value, int | float) else 0.0


def _texts(image: Mapping[str, object], name: str) -> Sequence[str]:
    value = image[name]
    return value if isinstance(value, list) else []


@dataclass(slots=True)
class Reader:
    """Reads items that nobody writes, one, many, below a parent, and counted."""

    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    quiet: Sequence[Item]
    releases: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    parents: Mapping[str, Sequence[Item]] = field(default_factory=dict)

    async def run(self) -> None:
        """Read until the traffic stops."""
        self.releases = by_release(self.quiet)
        self.parents = _by_parent(self.quiet)
        actions = ((self._get, 50), (self._filter, 25), (self._children, 15), (self._count, 10))
        await self.traffic.keep_busy(self.pacer, self.rng, actions)

    async def _get(self) -> None:
        item = self.rng.choice(self.quiet)
        failed = self.traffic.failed
        image = await self.traffic.read("get", partial(app.read, key=item.key))
        if not agrees(image_of(item), image) and self.traffic.failed == failed:
            self.traffic.break_promise(f"{item.id} was read as {image}, and nobody wrote it")

    async def _filter(self) -> None:
        release = self.rng.choice(list(self.releases))
        question = questions_about(release, self.rng)
        found = await self.traffic.read(
            "list", partial(app.matching, condition=question.filter, order="order_index")
        )
        if found is not None:
            wanted = [item for item in self.releases[release] if question.holds(_image(item))]
            self._judge(question, found, wanted)

    async def _children(self) -> None:
        if not self.parents:
            return
        parent = self.rng.choice(list(self.parents))
        found = await self.traffic.read("list", partial(app.children, parent=parent))
        if found is not None:
            question = Question(
                words=f"children of {parent}",
                filter=F("parent_id") == parent,
                holds=lambda image: image["parent_id"] == parent,
            )
            self._judge(question, found, self.parents[parent])

    def _judge(
        self, question: Question, found: Sequence[app.Found], wanted: Sequence[Item]
    ) -> None:
        where = f"the list of {question.words}"
        keys = [one.key for one in found]
        if missing := {item.key for item in wanted} - set(keys):
            self.traffic.break_promise(f"{where} lacked {sorted(missing)[:3]}")
        # One that is written between two pages may move, and come twice; one left alone may not.
        if any(keys.count(item.key) > 1 for item in wanted):
            self.traffic.break_promise(f"{where} had an item twice")
        if wrong := [one.key for one in found if not question.holds(one.image)]:
            self.traffic.break_promise(f"{where} gave {wrong[:3]}, to which it does not apply")
        order = [_place(one) for one in found]
        if order != sorted(order):
            self.traffic.break_promise(f"{where} was out of order")

    async def _count(self) -> None:
        release = self.rng.choice(list(self.releases))
        counts = await self.traffic.read(
            "count",
            partial(app.count_by_status, condition=F("context_tags").contains_any(release)),
        )
        if counts is None:
            return
        status = self.rng.choice(STATUSES)
        least = sum(item.fields["status"] == status for item in self.releases[release])
        if counts.get(status, 0) < least:
            self.traffic.break_promise(
                f"{release} counted {counts.get(status)} items {status}, has {least} at least"
            )


def _image(item: Item) -> Mapping[str, object]:
    return image_of(item) or {}


def _by_parent(items: Sequence[Item]) -> Mapping[str, Sequence[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        if (parent := item.fields["parent_id"]) is not None:
            groups.setdefault(str(parent), []).append(item)
    return groups


def _place(one: app.Found) -> tuple[bool, float, str]:
    """Return an item's place in the order of order_index: nulls last, then by id."""
    place = one.image["order_index"]
    return place is None, _number(one.image, "order_index"), str(one.key[0])


@dataclass(slots=True)
class Searcher:
    """Searches by meaning, by words and by both, at times among the items of one status."""

    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    questions: Sequence[str]
    quiet: Sequence[Item]

    async def run(self) -> None:
        """Search until the traffic stops."""
        actions = (
            (self._by_meaning, 40),
            (self._by_both, 30),
            (self._by_words, 15),
            (self._for_itself, 15),
        )
        await self.traffic.keep_busy(self.pacer, self.rng, actions)

    async def _by_meaning(self) -> None:
        await self._ask("search_text", app.search_meaning, self.rng.choice(self.questions))

    async def _by_both(self) -> None:
        """Ask a question, or for two words that some items have."""
        asked = self._two_words() if self.rng.random() < 0.5 else ""
        await self._ask("search_hybrid", app.search_both, asked or self.rng.choice(self.questions))

    async def _by_words(self) -> None:
        """Search for two words of a title: the item itself is among those that have them."""
        if asked := self._two_words():
            found = await self._ask("search_keyword", app.search_words, asked, whole=True)
            if found is not None and not found:
                self.traffic.break_promise(f"nothing has the words {asked!r}, which were stored")

    def _two_words(self) -> str:
        """Return two words of the title of an item that nobody writes, "" if it has not two."""
        title = str(self.rng.choice(self.quiet).fields["title"]).split()
        words = sorted({word for word in title if _WORD.match(word)})
        return " ".join(self.rng.sample(words, 2)) if len(words) > 1 else ""

    async def _for_itself(self) -> None:
        """Search for the very text of an item: nothing is nearer than an item with that text."""
        item = self.rng.choice(self.quiet)
        if not item.text.strip() or len(item.text) > 1000:
            return
        found = await self._ask("search_text", app.search_meaning, item.text, whole=True)
        if found is None:
            return
        first = found[0] if found else None
        if first is None or first.similarity < _SAME:
            seen = first and (text_of(first.image), first.similarity)
            self.traffic.break_promise(f"searched for {item.text[:60]!r} itself, found {seen}")

    async def _ask(
        self, kind: str, search: Search, text: str, *, whole: bool = False
    ) -> list[app.Found] | None:
        status = None if whole or self.rng.random() < 0.5 else self.rng.choice(STATUSES)
        condition = None if status is None else F("status") == status
        limit = self.rng.randint(3, _LIMIT)
        found = await self.traffic.read(
            kind, partial(search, text=text, condition=condition, limit=limit)
        )
        if found is not None:
            where = f"{kind} of {text[:40]!r}, status {status or 'any'}"
            if len(found) > limit:
                self.traffic.break_promise(f"{where} gave {len(found)} hits, limit {limit}")
            if any(left.similarity < right.similarity for left, right in itertools.pairwise(found)):
                self.traffic.break_promise(f"{where} gave hits out of order")
            if status is not None and any(one.image["status"] != status for one in found):
                self.traffic.break_promise(f"{where} gave hits of another status")
        return found
