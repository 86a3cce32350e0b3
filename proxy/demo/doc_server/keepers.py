"""Live clients that do the application's larger chores: publish crates, run population jobs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from proxy.demo.doc_server import application as app
from proxy.demo.doc_server.corpus import Document
from proxy.demo.doc_server.plan import image_of, key_of
from proxy.demo.doc_server.writers import revised
from proxy.demo.traffic import Pacer, Target, Traffic
from proxy.model import Key

_CRATE_DOCUMENTS = 5
_Fields = dict[str, str | int | None]


@dataclass(slots=True)
class CrateKeeper:
    """Publishes crates as the application does: a source, a batch, totals; and removes them."""

    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    samples: Sequence[Document]
    count: int = 0

    async def run(self) -> None:
        """Publish and remove crates until the traffic stops."""
        while not self.traffic.stopping.is_set():
            self.count += 1
            crate = f"live-crate-{self.count}"
            documents = await self._publish(crate)
            await self._look(crate, documents)
            if self.count % 3 == 0:
                documents = await self._thin_out(crate, documents)
            if self.count % 2 == 0:
                await self._remove(crate, documents)

    async def _publish(self, crate: str) -> list[Document]:
        version = f"1.{self.count}.0"
        source: Key = ("rust", crate)
        await self._write_source(crate, {"version": version, "total_docs": 0, "total_tokens": 0})
        documents = [
            replace(
                revised(self.rng.choice(self.samples), self.rng, crate),
                crate=crate,
                path=f"{crate}/{'kept' if number % 2 else 'old'}-{number}.html",
            )
            for number in range(_CRATE_DOCUMENTS)
        ]
        targets: list[Target] = [("documents", key_of(d), image_of(d)) for d in documents]
        await self.pacer.wait()
        await self.traffic.write(
            "batch", targets, partial(app.upsert_many, documents=documents, atomic=True)
        )
        totals = {
            "total_docs": len(documents),
            "total_tokens": sum(document.token_count or 0 for document in documents),
        }
        await self.pacer.wait()
        await self.traffic.write(
            "update",
            [("sources", source, {"version": version, **totals})],
            partial(app.update_totals, key=source, totals=totals),
        )
        if self.count % 4 == 0:  # the application's upsert without a version keeps the old one
            await self._write_source(crate, {"version": version, **totals}, say_nothing=True)
        return documents

    async def _write_source(self, crate: str, image: _Fields, *, say_nothing: bool = False) -> None:
        fields: _Fields = {} if say_nothing else image
        key: Key = ("rust", crate)
        await self.pacer.wait()
        await self.traffic.write(
            "upsert",
            [("sources", key, image)],
            partial(app.upsert_source, key=key, fields=fields),
        )
        await self.traffic.read_back("sources", key, partial(app.read_source, key=key))

    async def _look(self, crate: str, documents: Sequence[Document]) -> None:
        """Count, list and search what was just written: every side must show it."""
        wanted = sorted(document.path for document in documents)
        paths = await self.traffic.read("list", partial(app.paths_of, crate=crate))
        if paths is not None and sorted(paths) != wanted:
            self.traffic.break_promise(f"the list of {crate} was {paths}, written were {wanted}")
        count = await self.traffic.read("count", partial(app.count_of, crate=crate))
        if count is not None and count != len(wanted):
            self.traffic.break_promise(f"{crate} counted {count} documents of {len(wanted)}")

    async def _thin_out(self, crate: str, documents: list[Document]) -> list[Document]:
        """Delete by a condition; the rest stays."""
        old = [document for document in documents if "/old-" in document.path]
        targets: list[Target] = [("documents", key_of(document), None) for document in old]
        await self.pacer.wait()
        deleted = await self.traffic.write(
            "delete_where", targets, partial(app.delete_like, crate=crate, pattern="%/old-%")
        )
        if deleted is not None and deleted != len(old):
            self.traffic.break_promise(f"{deleted} of {len(old)} documents of {crate} were deleted")
        rest = [document for document in documents if document not in old]
        await self._look(crate, rest)
        return rest

    async def _remove(self, crate: str, documents: Sequence[Document]) -> None:
        """Delete the source; its documents go with it, on both stores."""
        targets: list[Target] = [("sources", ("rust", crate), None)]
        targets += [("documents", key_of(document), None) for document in documents]
        await self.pacer.wait()
        await self.traffic.write("delete", targets, partial(app.delete_source, key=("rust", crate)))
        await self._look(crate, [])


@dataclass(slots=True)
class JobKeeper:
    """Runs population jobs: rows whose ids the proxy allocates, walked through their statuses."""

    traffic: Traffic
    pacer: Pacer
    rng: random.Random
    config_ids: int
    count: int = 0

    async def run(self) -> None:
        """Create, advance and at times delete jobs until the traffic stops."""
        while not self.traffic.stopping.is_set():
            await self.pacer.wait()
            self.count += 1
            config = self.rng.randint(1, self.config_ids)
            image: _Fields = {
                "crate_config_id": config,
                "status": "pending",
                "docs_populated": None,
            }
            key = await self.traffic.create(
                "insert", "population_jobs", image, partial(app.create_job, fields=image)
            )
            if key is not None:
                await self._advance(key, image)

    async def _advance(self, key: Key, image: _Fields) -> None:
        final = self.rng.choice(("completed", "failed"))
        for status in ("running", final):
            image = {**image, "status": status, "docs_populated": self.count}
            after: _Fields = dict(image)
            await self.pacer.wait()
            await self._set(key, after)
        await self.traffic.read_back("population_jobs", key, partial(app.read_job, key=key))
        if self.count % 5 == 0:
            await self.pacer.wait()
            await self.traffic.write(
                "delete",
                [("population_jobs", key, None)],
                partial(app.delete_job, key=key),
            )

    async def _set(self, key: Key, image: _Fields) -> None:
        await self.traffic.write(
            "update",
            [("population_jobs", key, image)],
            partial(app.update_job, key=key, fields=image),
        )
