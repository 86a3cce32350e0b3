"""Live clients that write work items: each owns items of its own, some fight for the same ones."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from proxy.demo.traffic import Pacer, Target, Traffic
from proxy.demo.work_items import application as app
from proxy.demo.work_items.corpus import AREAS
from proxy.demo.work_items.items import (
    COLLECTION,
    PRIORITIES,
    STATUSES,
    Item,
    ItemValue,
    image_of,
)
from proxy.model import Key

_READ_BACK_SHARE = 0.35


def now() -> dt.datetime:
    """Return the time that the application stamps on a change."""
    return dt.datetime.now(dt.UTC)


def reworded(item: Item, rng: random.Random, name: str) -> dict[str, ItemValue]:
    """Return another title, another description, or both: the vector must follow."""
    title = f"{str(item.fields['title'])[:160]} [{name}]"
    description = f"Now about {rng.choice(AREAS)} and {rng.choice(AREAS)} [{name}]"
    choices: tuple[dict[str, ItemValue], ...] = (
        {"title": title},
        {"description": description},
        {"description": None, "title": title},
        {"title": title, "description": description},
    )
    return rng.choice(choices)


def worked_on(rng: random.Random) -> dict[str, ItemValue]:
    """Return what a day's work changes: no word of it is in the vector."""
    changes: tuple[dict[str, ItemValue], ...] = (
        {"status": rng.choice(STATUSES), "progress": rng.choice((None, 0.0, rng.random(), 1.0))},
        {"actual_hours": rng.choice((None, rng.random() * 50)), "priority": rng.choice(PRIORITIES)},
        {
            "tags": rng.choice((None, [], rng.sample(AREAS, 3))),
            "assignee": rng.choice((None, "mo")),
        },
        {"acceptance_criteria": ["It works", 'It\'s "done" — ✓'], "executable": True},
        {"execution_instructions": rng.choice(("make it", "1.\n2.\n", None))},
        {"dependencies": [], "parent_id": None, "order_index": rng.randrange(-3, 99)},
    )
    return {**rng.choice(changes), "updated_at": now()}


@dataclass(slots=True)
class ItemWriter:
    """Inserts, updates, deletes and re-inserts items that nobody else writes.

    Attributes:
        fresh: items not written yet; `present` those stored now; `gone` those deleted.
    """

    name: str
    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    fresh: list[Item]
    present: dict[Key, Item]
    gone: dict[Key, Item] = field(default_factory=dict)
    count: int = 0

    async def run(self) -> None:
        """Write until the traffic stops."""
        actions = (
            (self._insert, 20),
            (self._work, 30),
            (self._reword, 20),
            (self._upsert, 8),
            (self._delete, 10),
            (self._insert_again, 6),
            (self._batch, 6),
        )
        await self.traffic.keep_busy(self.pacer, self.rng, actions)

    def _mark(self) -> str:
        self.count += 1
        return f"{self.name} {self.count}"

    def _pick(self) -> Item:
        return self.present[self.rng.choice(list(self.present))]

    async def _insert(self) -> None:
        if not self.fresh:
            await self._upsert()
            return
        item = self.fresh.pop()
        await self._put("insert", item, partial(app.insert, item=item))

    async def _work(self) -> None:
        await self._change(self._pick(), worked_on(self.rng))

    async def _reword(self) -> None:
        item = self._pick()
        await self._change(item, reworded(item, self.rng, self._mark()))

    async def _change(self, item: Item, changes: dict[str, ItemValue]) -> None:
        after = item.changed(**changes)
        await self._put("update", after, partial(app.update, key=item.key, changes=changes))

    async def _upsert(self) -> None:
        item = self._pick()
        item = item.changed(**reworded(item, self.rng, self._mark()), metadata={"n": self.count})
        await self._put("upsert", item, partial(app.upsert, item=item))

    async def _insert_again(self) -> None:
        if not self.gone:
            await self._insert()
            return
        item = self.gone.pop(self.rng.choice(list(self.gone)))
        item = item.changed(notes=self._mark(), metadata=None)
        await self._put("insert", item, partial(app.insert, item=item))

    async def _delete(self) -> None:
        key = self._pick().key
        self.gone[key] = self.present.pop(key)
        target: Target = (COLLECTION, key, None)
        await self.traffic.write("delete", [target], partial(app.delete, key=key))
        await self._perhaps_read_back(key)

    async def _batch(self) -> None:
        keys = self.rng.sample(list(self.present), min(len(self.present), self.rng.randint(2, 6)))
        items = [
            self.present[key].changed(title=f"One of several [{self._mark()}]", updated_at=now())
            for key in keys
        ]
        targets: list[Target] = [(COLLECTION, item.key, image_of(item)) for item in items]
        await self.traffic.write("batch", targets, partial(app.upsert_many, items=items))
        self.present.update((item.key, item) for item in items)
        await self._perhaps_read_back(keys[0])

    async def _put(
        self, kind: str, item: Item, call: Callable[[app.Client], Awaitable[None]]
    ) -> None:
        self.present[item.key] = item
        await self.traffic.write(kind, [(COLLECTION, item.key, image_of(item))], call)
        await self._perhaps_read_back(item.key)

    async def _perhaps_read_back(self, key: Key) -> None:
        if self.rng.random() < _READ_BACK_SHARE:
            await self.traffic.read_back(COLLECTION, key, partial(app.read, key=key))


@dataclass(slots=True)
class HotWriter:
    """Upserts and deletes a few items that other hot writers write at the same time."""

    name: str
    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    keys: Sequence[Key]
    samples: Sequence[Item]
    count: int = 0

    async def run(self) -> None:
        """Write until the traffic stops."""
        while not self.traffic.stopping.is_set():
            await self.pacer.wait()
            self.count += 1
            key = self.rng.choice(self.keys)
            if self.rng.random() < 0.25:
                target: Target = (COLLECTION, key, None)
                await self.traffic.write("delete", [target], partial(app.delete, key=key))
            else:
                await self._upsert(key)
            await self.traffic.read_back(COLLECTION, key, partial(app.read, key=key))

    async def _upsert(self, key: Key) -> None:
        base = self.rng.choice(self.samples)
        item = replace(base, id=str(key[0])).changed(
            title=f"Hot item [{self.name} {self.count}]", updated_at=now()
        )
        await self.traffic.write(
            "upsert", [(COLLECTION, key, image_of(item))], partial(app.upsert, item=item)
        )
