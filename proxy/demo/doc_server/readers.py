"""Live clients that read: searches, single records, pages and counts, each answer checked."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from proxy.demo.doc_server import application as app
from proxy.demo.doc_server.corpus import Document, Question
from proxy.demo.doc_server.plan import image_of, key_of
from proxy.demo.oracle import agrees
from proxy.demo.traffic import Pacer, Traffic

_ALL_SHARE = 0.15
_LIMIT = 10


@dataclass(slots=True)
class Searcher:
    """Asks questions, mostly within one crate as the application does, at times over all."""

    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    questions: Sequence[Question]
    crates: Sequence[str]

    async def run(self) -> None:
        """Search until the traffic stops."""
        while not self.traffic.stopping.is_set():
            await self.pacer.wait()
            question = self.rng.choice(self.questions)
            crate = None if self.rng.random() < _ALL_SHARE else self.rng.choice(self.crates)
            limit = _LIMIT if crate is None else self.rng.randint(3, _LIMIT)
            hits = await self.traffic.read(
                "search_all" if crate is None else "search",
                partial(app.search, vector=question.vector, crate=crate, limit=limit),
            )
            if hits is not None:
                self._judge(question, crate, limit, hits)

    def _judge(
        self, question: Question, crate: str | None, limit: int, hits: Sequence[app.Found]
    ) -> None:
        where = f"search of {question.text[:40]!r} in {crate or 'all'}"
        if not 1 <= len(hits) <= limit:
            self.traffic.break_promise(f"{where} gave {len(hits)} hits, limit {limit}")
        if any(left.similarity < right.similarity for left, right in itertools.pairwise(hits)):
            self.traffic.break_promise(f"{where} gave hits out of order")
        if crate is not None and any(hit.key[1] != crate for hit in hits):
            self.traffic.break_promise(f"{where} gave hits of other crates")


@dataclass(slots=True)
class Reader:
    """Reads documents that nobody writes, pages of a crate, and counts; knows what must come."""

    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    quiet: Sequence[Document]

    async def run(self) -> None:
        """Read until the traffic stops."""
        while not self.traffic.stopping.is_set():
            await self.pacer.wait()
            await self.rng.choices((self._get, self._page, self._count), (70, 20, 10))[0]()

    async def _get(self) -> None:
        documents = self.rng.sample(list(self.quiet), 3)
        keys = [key_of(document) for document in documents]
        images = await self.traffic.read("get", partial(app.read_many, keys=keys))
        if images is None:
            return
        for document, found in zip(documents, images, strict=True):
            if not agrees(image_of(document), found):
                self.traffic.break_promise(
                    f"{key_of(document)} was read as {found}, and nobody wrote it"
                )

    async def _page(self) -> None:
        """Walk a whole crate in pages: every document that nobody writes must be met once."""
        crate = self.rng.choice(self.quiet).crate
        paths = await self.traffic.read("list", partial(app.paths_of, crate=crate))
        if paths is None:
            return
        wanted = {document.path for document in self.quiet if document.crate == crate}
        if missing := wanted - set(paths):
            self.traffic.break_promise(f"the list of {crate} lacked {sorted(missing)[:3]}")
        if len(paths) != len(set(paths)):
            self.traffic.break_promise(f"the list of {crate} had a document twice")

    async def _count(self) -> None:
        counts = await self.traffic.read("count", app.count_by_crate)
        if counts is None:
            return
        crate = self.rng.choice(self.quiet).crate
        quiet = sum(document.crate == crate for document in self.quiet)
        if counts.get(crate, 0) < quiet:
            self.traffic.break_promise(f"{crate} counted {counts.get(crate)}, has {quiet} at least")
