"""Fill the old database as the old application left it, by binary COPY; make the new one empty."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from importlib import resources

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from proxy.demo.doc_server.corpus import Document
from proxy.demo.doc_server.traps import (
    EMPTY_CRATE,
    ODD_CRATE,
    CrateConfig,
    crate_configs,
    population_jobs,
    with_traps,
)

_PRESETS = "proxy.config.presets"
_NAIVE_START = dt.datetime(2024, 3, 1, 12)  # noqa: DTZ001 - the old column has no zone


def create_schemas(old_dsn: str, new_dsn: str) -> None:
    """Create the doc server's tables in both databases."""
    for dsn, name in ((old_dsn, "doc_server_old.sql"), (new_dsn, "doc_server_new.sql")):
        ddl = resources.files(_PRESETS).joinpath(name).read_text(encoding="utf-8")
        with psycopg.connect(dsn) as connection:
            connection.execute(ddl.encode())


def load_old(dsn: str, documents: Sequence[Document]) -> int:
    """Load the corpus and its traps. Return how many rows were written in all tables."""
    rows = with_traps(documents)
    now = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
    with psycopg.connect(dsn) as connection:
        register_vector(connection)
        crates = _load_crates(connection, rows)
        _load_documents(connection, rows, crates)
        configs = crate_configs(sorted(crates), now)
        config_ids = _load_configs(connection, configs, now)
        jobs = _load_jobs(connection, config_ids, now)
        connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")
    return len(crates) + len(rows) + len(configs) + jobs


def _load_crates(connection: psycopg.Connection, rows: Sequence[Document]) -> dict[str, int]:
    versions: dict[str, str | None] = {EMPTY_CRATE: None, ODD_CRATE: None}
    versions |= {row.crate: row.version for row in rows}
    docs = Counter(row.crate for row in rows)
    tokens: Counter[str] = Counter()
    for row in rows:
        tokens[row.crate] += min(row.token_count or 0, 10_000)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO crates (name, version, last_updated, total_docs, total_tokens)"
            " VALUES (%s, %s, %s, %s, %s)",
            [
                (name, version, _at(number), docs[name], tokens[name])
                for number, (name, version) in enumerate(sorted(versions.items()))
            ],
        )
        cursor.execute("SELECT name, id FROM crates")
        return dict(cursor.fetchall())


def _load_documents(
    connection: psycopg.Connection, rows: Sequence[Document], crates: dict[str, int]
) -> None:
    statement = (
        "COPY doc_embeddings (crate_id, crate_name, doc_path, content, embedding, token_count,"
        " created_at) FROM STDIN (FORMAT BINARY)"
    )
    types = ("int4", "varchar", "text", "text", "vector", "int4", "timestamp")
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for number, row in enumerate(rows):
            vector = None if row.vector is None else np.frombuffer(row.vector, dtype="<f4")
            copy.write_row(
                (
                    crates[row.crate],
                    row.crate,
                    row.path,
                    row.content,
                    vector,
                    row.token_count,
                    _at(number),
                )
            )


def _load_configs(
    connection: psycopg.Connection, configs: Sequence[CrateConfig], now: dt.datetime
) -> list[int]:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO crate_configs (name, version_spec, current_version, features,"
            " expected_docs, enabled, last_checked, created_at, updated_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    config.name,
                    config.version_spec,
                    config.current_version,
                    config.features,
                    config.expected_docs,
                    config.enabled,
                    config.last_checked,
                    now,
                    now,
                )
                for config in configs
            ],
        )
        cursor.execute("SELECT id FROM crate_configs ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def _load_jobs(connection: psycopg.Connection, config_ids: list[int], now: dt.datetime) -> int:
    jobs = population_jobs(len(config_ids), now)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO population_jobs (crate_config_id, status, started_at, error_message,"
            " docs_populated, created_at) VALUES (%s, %s, %s, %s, %s, %s)",
            [
                (
                    config_ids[job.config],
                    job.status,
                    job.started_at,
                    job.error_message,
                    job.docs_populated,
                    now,
                )
                for job in jobs
            ],
        )
    return len(jobs)


def _at(number: int) -> dt.datetime:
    """Return a naive time, different for each row to the microsecond."""
    return _NAIVE_START + dt.timedelta(minutes=number, microseconds=number % 1_000_003)
