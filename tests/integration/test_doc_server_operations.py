"""Every operation of the doc server, through the API, seen in both real databases."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from crossfade.client import (
    AsyncClient,
    F,
    FailedPrecondition,
    Read,
    Scoring,
    SearchMode,
    Unimplemented,
    Upsert,
)
from crossfade.client.control import ControlClient
from crossfade.client.control_types import Phase
from psycopg.conninfo import make_conninfo

from proxy.clock import SystemClock
from proxy.config.loader import load_text
from proxy.server.serve import running
from proxy.telemetry.setup import build_telemetry
from tests.doc_server import create_tables, vector

CONFIG = """
migration: operations
preset: doc-server
listen: {{address: "127.0.0.1:0", metrics: "127.0.0.1:0"}}
old: {{engine: postgresql, dsn: "{old}"}}
new: {{engine: postgresql, dsn: "{new}"}}
ledger: {{dsn: "{ledger}"}}
"""


@dataclass(frozen=True)
class House:
    """A proxy in dual_write over two real databases."""

    client: AsyncClient
    control: ControlClient
    old_dsn: str
    new_dsn: str

    def old(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Ask the old database."""
        with psycopg.connect(self.old_dsn) as connection:
            return connection.execute(query.encode(), params).fetchall()

    def new(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Ask the new database."""
        with psycopg.connect(self.new_dsn) as connection:
            return connection.execute(query.encode(), params).fetchall()

    async def crate(self, name: str = "serde", version: str | None = "1.0") -> None:
        """Upsert a crate."""
        fields = {} if version is None else {"version": version}
        await self.client.upsert("sources", ("rust", name), fields)

    async def documents(self, crate: str = "serde", count: int = 5) -> None:
        """Upsert a crate and documents of it."""
        await self.crate(crate)
        items = [
            Upsert(
                "documents",
                ("rust", crate, f"p{n}"),
                {"content": f"text {n}", "token_count": n},
                vector(n),
            )
            for n in range(count)
        ]
        await self.client.batch_write(items, atomic=True)

    async def go(self, *phases: Phase) -> None:
        """Walk on, without the evidence that a real migration needs."""
        for phase in phases:
            change = await self.control.change_phase(phase, force=True, actor="t", reason="test")
            assert change.applied, change.message


@pytest.fixture
async def house(new_database: Callable[[], str]) -> AsyncIterator[House]:
    old, new, ledger = new_database(), new_database(), new_database()
    create_tables(old, "old")
    create_tables(new, "new")
    quiet = {"application_name": "crossfade-test"}
    text = CONFIG.format(
        old=make_conninfo(old, **quiet), new=make_conninfo(new, **quiet), ledger=ledger
    )
    config = load_text(text, "operations.yaml")
    telemetry = build_telemetry(
        config.settings.telemetry, migration="operations", metrics_address=""
    )
    async with (
        running(config, telemetry, SystemClock()) as address,
        AsyncClient(address) as client,
        ControlClient(address) as control,
    ):
        made = House(client=client, control=control, old_dsn=old, new_dsn=new)
        await made.go(Phase.DUAL_WRITE)
        yield made
    await telemetry.close()


async def test_upsert_crate_keeps_the_version_when_the_new_one_is_not_given(house: House) -> None:
    await house.crate(version="1.2.3")
    await house.crate(version=None)
    assert house.old("SELECT name, version FROM crates") == [("serde", "1.2.3")]
    assert house.new("SELECT source_name, config->>'version' FROM document_sources") == [
        ("serde", "1.2.3")
    ]


async def test_upsert_one_document(house: House) -> None:
    await house.crate()
    key = ("rust", "serde", "a")
    for content in ("first", "second"):
        await house.client.upsert("documents", key, {"content": content}, vector=vector(1))
    (old,) = house.old("SELECT id, content, created_at FROM doc_embeddings")
    (new,) = house.new(
        "SELECT (metadata->>'original_id')::int, content, created_at FROM documents"
        " WHERE metadata->>'crate_name' = 'serde'"
    )
    assert old == new
    assert old[1] == "second"


async def test_upsert_a_batch_in_one_transaction_then_recompute_the_totals(house: House) -> None:
    await house.documents(count=4)
    counts = await house.client.count(
        "documents", filter=F("source_name") == "serde", sum_field="token_count"
    )
    (group,) = counts.groups
    await house.client.update(
        "sources",
        ("rust", "serde"),
        {"total_docs": group.count, "total_tokens": int(group.sum)},
    )
    assert house.old("SELECT total_docs, total_tokens FROM crates") == [(4, 6)]
    assert house.new(
        "SELECT (config->>'total_docs')::int, (config->>'total_tokens')::int FROM document_sources"
    ) == [(4, 6)]
    broken = [
        Upsert("documents", ("rust", "serde", "new"), {"content": "x"}, vector(1)),
        Upsert("documents", ("rust", "nobody", "new"), {"content": "x"}, vector(1)),
    ]
    with pytest.raises(FailedPrecondition):
        await house.client.batch_write(broken, atomic=True)
    assert house.old("SELECT count(*) FROM doc_embeddings") == [(4,)]
    assert house.new("SELECT count(*) FROM documents") == [(4,)]


async def test_exists_documents_for_a_crate(house: House) -> None:
    await house.documents(count=1)
    for crate, exists in (("serde", True), ("tokio", False)):
        page = await house.client.list(
            "documents", filter=F("source_name") == crate, limit=1, read=Read(fields=())
        )
        assert bool(page.records) is exists


async def test_list_distinct_crates_and_count_documents_of_each(house: House) -> None:
    await house.documents("serde", 3)
    await house.documents("tokio", 2)
    counts = await house.client.count("documents", group_by="source_name")
    assert {group.value: group.count for group in counts.groups} == {"serde": 3, "tokio": 2}


async def test_count_documents_of_a_crate(house: House) -> None:
    await house.documents(count=3)
    counts = await house.client.count("documents", filter=F("source_name") == "serde")
    assert counts.total == 3


async def test_get_all_documents_of_a_crate_with_vectors_ordered_by_path(house: House) -> None:
    await house.documents(count=5)
    found = [
        record
        async for record in house.client.iterate(
            "documents",
            filter=F("source_name") == "serde",
            order_by=["doc_path"],
            page_size=2,
            read=Read(vector=True),
        )
    ]
    assert [record.key[2] for record in found] == ["p0", "p1", "p2", "p3", "p4"]
    assert [record.vector.tobytes() for record in found if record.vector is not None] == [
        vector(n) for n in range(5)
    ]


@pytest.mark.parametrize("within", [True, False])
async def test_vector_search_within_a_crate_and_over_all(house: House, within: bool) -> None:
    await house.documents("serde", 5)
    await house.documents("tokio", 5)
    condition = F("source_name") == "tokio" if within else None
    result = await house.client.search("documents", vector(3), filter=condition, limit=3)
    assert len(result.hits) == 3
    assert result.hits[0].similarity == pytest.approx(1.0, abs=1e-6)
    assert result.hits[0].record.key[2] == "p3"
    if within:
        assert {hit.record.key[1] for hit in result.hits} == {"tokio"}


async def test_delete_all_documents_of_a_crate(house: House) -> None:
    await house.documents("serde", 5)
    await house.documents("tokio", 1)
    assert await house.client.delete_where("documents", F("source_name") == "serde") == 5
    assert house.old("SELECT crate_name FROM doc_embeddings") == [("tokio",)]
    assert house.new("SELECT source_name FROM documents") == [("tokio",)]


async def test_deleting_a_crate_takes_its_documents_along_on_both_stores(house: House) -> None:
    await house.documents("serde", 5)
    await house.documents("tokio", 1)
    await house.client.delete("sources", ("rust", "serde"))
    assert house.old("SELECT name FROM crates") == [("tokio",)]
    assert house.old("SELECT crate_name FROM doc_embeddings") == [("tokio",)]
    assert house.new("SELECT source_name FROM document_sources") == [("tokio",)]
    assert house.new("SELECT source_name FROM documents") == [("tokio",)]


async def test_crate_statistics(house: House) -> None:
    await house.crate("serde", "1.0")
    await house.client.update("sources", ("rust", "serde"), {"total_docs": 7})
    page = await house.client.list("sources", order_by=["source_name"])
    (record,) = page.records
    assert (record.fields["version"], record.fields["total_docs"]) == ("1.0", 7)
    assert isinstance(record.fields["last_updated"], dt.datetime)


async def test_crud_and_list_of_crate_configs_with_the_same_ids_on_both(house: House) -> None:
    client = house.client
    made = [
        await client.insert(
            "crate_configs", None, {"name": name, "version_spec": "latest", "features": ["a", "b"]}
        )
        for name in ("serde", "tokio")
    ]
    await client.update("crate_configs", made[0].key, {"enabled": False})
    await client.delete("crate_configs", made[1].key)
    listed = (await client.list("crate_configs")).records
    assert [record.fields["name"] for record in listed] == ["serde"]
    query = "SELECT id, name, features, enabled, expected_docs FROM crate_configs"
    assert house.old(query) == house.new(query) == [(made[0].key[0], "serde", ["a", "b"], False, 0)]


async def test_configs_that_need_updating_are_enabled_and_stale(house: House) -> None:
    now = dt.datetime.now(dt.UTC)
    for name, enabled, checked in (
        ("never", True, None),
        ("stale", True, now - dt.timedelta(days=2)),
        ("fresh", True, now),
        ("off", False, None),
    ):
        await house.client.insert(
            "crate_configs",
            None,
            {"name": name, "version_spec": "1", "enabled": enabled, "last_checked": checked},
        )
    stale = F("last_checked").is_null() | (F("last_checked") < now - dt.timedelta(days=1))
    page = await house.client.list("crate_configs", filter=(F("enabled") == True) & stale)  # noqa: E712  # builds a filter
    assert [record.fields["name"] for record in page.records] == ["never", "stale"]


async def test_create_and_update_population_jobs(house: House) -> None:
    config = await house.client.insert(
        "crate_configs", None, {"name": "serde", "version_spec": "1"}
    )
    job = await house.client.insert(
        "population_jobs", None, {"crate_config_id": config.key[0], "status": "pending"}
    )
    await house.client.update(
        "population_jobs", job.key, {"status": "completed", "docs_populated": 9}
    )
    query = "SELECT id, crate_config_id, status, docs_populated FROM population_jobs"
    assert house.old(query) == house.new(query) == [(job.key[0], config.key[0], "completed", 9)]


# What the later application adds, once the new store may answer.


async def ramped(house: House) -> House:
    await house.go(Phase.SHADOW, Phase.RAMP)
    await house.control.set_traffic(100, force=True, actor="t", reason="test")
    await house.go(Phase.NEW_PRIMARY)
    return replace(house)


async def test_full_text_search_ranked_and_hybrid_in_both_stores(house: House) -> None:
    await house.documents(count=3)
    texts = ("Serializing a structure.", "Serialize, serialized, serializer.", "Parsing of dates.")
    for number, text in enumerate(texts):
        await house.client.update("documents", ("rust", "serde", f"p{number}"), {"content": text})
    for served in ("old", "new"):
        words = await house.client.search("documents", text="serialize", mode=SearchMode.KEYWORD)
        assert words.served_by.store == served
        assert words.scoring is Scoring.TS_RANK
        assert [hit.record.key[2] for hit in words.hits] == ["p1", "p0"]
        fused = await house.client.search_hybrid(
            "documents", "serialize", vector=vector(2), alpha=0.5, limit=3
        )
        assert fused.scoring is Scoring.RECIPROCAL_RANK
        assert {hit.record.key[2] for hit in fused.hits} == {"p0", "p1", "p2"}
        if served == "old":
            await ramped(house)
    with pytest.raises(Unimplemented, match="no model makes the vectors of documents"):
        await house.client.search("documents", text="serialize")
    with pytest.raises(Unimplemented, match=r"keyword\.fields"):
        await house.client.search_text("sources", "serde")


async def test_filters_on_metadata(house: House) -> None:
    await house.documents(count=2)
    await ramped(house)
    metadata = {"format": "md", "category": "guide"}
    await house.client.update("documents", ("rust", "serde", "p1"), {"metadata": metadata})
    for name, value in metadata.items():
        page = await house.client.list("documents", filter=F("metadata").json(name) == value)
        assert [record.key[2] for record in page.records] == ["p1"]
    assert house.new("SELECT metadata->>'crate_name' FROM documents WHERE doc_path = 'p1'") == [
        ("serde",)
    ], "what is packed beside it stays"


async def test_path_ilike_and_paging_with_offset(house: House) -> None:
    await house.documents(count=5)
    await ramped(house)
    page = await house.client.list(
        "documents", filter=F("doc_path").ilike("P%"), order_by=["doc_path"], limit=2, offset=2
    )
    assert [record.key[2] for record in page.records] == ["p2", "p3"]


async def test_listing_by_doc_type_and_soft_delete_by_metadata_status(house: House) -> None:
    await house.documents(count=2)
    await ramped(house)
    await house.client.upsert("sources", ("birdeye", "api"), {})
    await house.client.upsert("documents", ("birdeye", "api", "x"), {"content": "bird"})
    page = await house.client.list("documents", filter=F("doc_type") == "birdeye")
    assert [record.key for record in page.records] == [("birdeye", "api", "x")]
    await house.client.update(
        "documents", ("birdeye", "api", "x"), {"metadata": {"status": "deleted"}}
    )
    alive = ~(F("metadata").json("status") == "deleted") | F("metadata").is_null()
    assert house.new("SELECT metadata->>'status' FROM documents WHERE doc_type = 'birdeye'") == [
        ("deleted",)
    ]
    kept = await house.client.list("documents", filter=(F("doc_type") == "birdeye") & alive)
    assert not kept.records


async def test_other_doc_types_are_refused_before_the_cutover(house: House) -> None:
    with pytest.raises(FailedPrecondition, match="one_sided_records"):
        await house.client.upsert("sources", ("birdeye", "api"), {})
