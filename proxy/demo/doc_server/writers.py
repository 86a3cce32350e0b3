"""Live clients that write: each owns keys of its own, some fight for the same ones."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from proxy.demo.doc_server import application as app
from proxy.demo.doc_server.corpus import Document
from proxy.demo.doc_server.plan import image_of, key_of
from proxy.demo.traffic import Pacer, Target, Traffic
from proxy.model import Key

_READ_BACK_SHARE = 0.35
_NUDGE = 0.05


def revised(document: Document, rng: random.Random, name: str) -> Document:
    """Return a new version of a document: another text and a slightly turned vector."""
    vector = document.vector
    if vector is not None:
        values = np.frombuffer(vector, dtype="<f4")
        noise = np.random.default_rng(rng.randrange(2**32)).standard_normal(len(values))
        turned = values + _NUDGE / len(values) ** 0.5 * noise
        vector = (turned / np.linalg.norm(turned)).astype("<f4").tobytes()
    return replace(
        document,
        content=f"{document.content}\n\n[{name}]",
        token_count=rng.randrange(1, 2000),
        vector=vector,
    )


@dataclass(slots=True)
class DocumentWriter:
    """Inserts, upserts, updates, deletes and re-inserts documents that nobody else writes.

    Attributes:
        fresh: documents not written yet; `present` those stored now; `gone` those deleted.
    """

    name: str
    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    fresh: list[Document]
    present: dict[Key, Document]
    gone: dict[Key, Document] = field(default_factory=dict)
    count: int = 0

    async def run(self) -> None:
        """Write until the traffic stops."""
        actions = (
            (self._insert, 25),
            (self._upsert, 20),
            (self._update, 25),
            (self._delete, 12),
            (self._insert_again, 8),
            (self._batch, 10),
        )
        await self.traffic.keep_busy(self.pacer, self.rng, actions)

    def _next(self, document: Document) -> Document:
        self.count += 1
        return revised(document, self.rng, f"{self.name} {self.count}")

    def _pick(self) -> Document:
        return self.present[self.rng.choice(list(self.present))]

    async def _insert(self) -> None:
        if not self.fresh:
            await self._upsert()
            return
        document = self.fresh.pop()
        self.present[key_of(document)] = document
        await self._put("insert", document, partial(app.insert, document=document))

    async def _upsert(self) -> None:
        document = self._next(self._pick())
        await self._put("upsert", document, partial(app.upsert, document=document))

    async def _insert_again(self) -> None:
        if not self.gone:
            await self._insert()
            return
        key = self.rng.choice(list(self.gone))
        document = self._next(self.gone.pop(key))
        await self._put("insert", document, partial(app.insert, document=document))

    async def _update(self) -> None:
        stored = self._pick()
        document = self._next(stored)
        which = self.rng.choice(("content", "token_count", "vector"))
        if which == "content":
            document = replace(stored, content=document.content)
        elif which == "token_count":
            document = replace(stored, token_count=self.rng.choice((None, 0, self.count)))
        else:
            document = replace(stored, vector=document.vector)
        await self._put("update", document, partial(app.update, document=document, which=which))

    async def _delete(self) -> None:
        document = self._pick()
        key = key_of(document)
        self.gone[key] = self.present.pop(key)
        target: Target = ("documents", key, None)
        await self.traffic.write("delete", [target], partial(app.delete, key=key))
        await self._perhaps_read_back(key)

    async def _batch(self) -> None:
        keys = self.rng.sample(list(self.present), min(len(self.present), self.rng.randint(2, 6)))
        documents = [self._next(self.present[key]) for key in keys]
        targets: list[Target] = [("documents", key_of(d), image_of(d)) for d in documents]
        atomic = self.rng.random() < 0.5
        await self.traffic.write(
            "batch", targets, partial(app.upsert_many, documents=documents, atomic=atomic)
        )
        self.present.update((key_of(document), document) for document in documents)
        await self._perhaps_read_back(keys[0])

    async def _put(
        self, kind: str, document: Document, call: Callable[[app.Client], Awaitable[None]]
    ) -> None:
        key = key_of(document)
        self.present[key] = document
        await self.traffic.write(kind, [("documents", key, image_of(document))], call)
        await self._perhaps_read_back(key)

    async def _perhaps_read_back(self, key: Key) -> None:
        if self.rng.random() < _READ_BACK_SHARE:
            await self.traffic.read_back("documents", key, partial(app.read, key=key))


@dataclass(slots=True)
class HotWriter:
    """Upserts and deletes a few keys that other hot writers write at the same time."""

    name: str
    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    keys: Sequence[Key]
    samples: Sequence[Document]
    count: int = 0

    async def run(self) -> None:
        """Write until the traffic stops."""
        while not self.traffic.stopping.is_set():
            await self.pacer.wait()
            self.count += 1
            key = self.rng.choice(self.keys)
            if self.rng.random() < 0.25:
                target: Target = ("documents", key, None)
                await self.traffic.write("delete", [target], partial(app.delete, key=key))
            else:
                await self._upsert(key)
            await self.traffic.read_back("documents", key, partial(app.read, key=key))

    async def _upsert(self, key: Key) -> None:
        base = revised(self.rng.choice(self.samples), self.rng, f"{self.name} {self.count}")
        document = replace(base, crate=str(key[1]), path=str(key[2]))
        await self.traffic.write(
            "upsert",
            [("documents", key, image_of(document))],
            partial(app.upsert, document=document),
        )
