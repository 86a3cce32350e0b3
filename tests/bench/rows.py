"""The rows that are measured: the corpus in the old database, and the corpus repeated."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from proxy.demo.doc_server.corpus import Document
from proxy.demo.doc_server.vectors import DIM, normalised

SEED = 20_261_122
_NOISES = 64
_NOISE_LENGTH = 0.05
"""Of the perturbation of a repeated vector; the vectors themselves have length 1."""

_START = dt.datetime(2026, 3, 1, 12)  # noqa: DTZ001  # the column has no zone

_COPY = (
    "COPY doc_embeddings (crate_id, crate_name, doc_path, content, embedding, token_count,"
    " created_at) FROM STDIN (FORMAT BINARY)"
)
_TYPES = ("int4", "varchar", "text", "text", "vector", "int4", "timestamp")
_REPEAT = """
INSERT INTO doc_embeddings
    (crate_id, crate_name, doc_path, content, embedding, token_count, created_at)
SELECT d.crate_id, d.crate_name, d.doc_path || '@v' || %(version)s::int, d.content,
       l2_normalize(d.embedding + n.noise), d.token_count,
       d.created_at + %(version)s::int * interval '1 day'
FROM doc_embeddings d JOIN bench_noise n ON n.number = (d.id * 31 + %(version)s::int) %% %(noises)s
WHERE d.id <= %(last)s ORDER BY d.id LIMIT %(missing)s
"""


def load_corpus_rows(dsn: str, documents: Sequence[Document]) -> int:
    """Load documents and their crates into the empty old database; return how many documents."""
    with psycopg.connect(dsn) as connection:
        register_vector(connection)
        crates = _load_crates(connection, documents)
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for number, row in enumerate(documents):
                vector = None if row.vector is None else np.frombuffer(row.vector, dtype="<f4")
                at = _START + dt.timedelta(minutes=number)
                copy.write_row(
                    (
                        crates[row.crate],
                        row.crate,
                        row.path,
                        row.content,
                        vector,
                        row.token_count,
                        at,
                    )
                )
    return len(documents)


def _load_crates(connection: psycopg.Connection, rows: Sequence[Document]) -> dict[str, int]:
    versions = {row.crate: row.version for row in rows}
    counts = Counter(row.crate for row in rows)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO crates (name, version, total_docs) VALUES (%s, %s, %s)",
            [(name, version, counts[name]) for name, version in sorted(versions.items())],
        )
        cursor.execute("SELECT name, id FROM crates")
        return dict(cursor.fetchall())


def repeat_rows(dsn: str, rows: int) -> None:
    """Grow the table to `rows` by repeating what is there.

    Each repetition gets a version suffix on its path and one of 64 seeded perturbations of length
    0.05 on its vector, normalised again. The server does it.
    """
    noises = np.random.default_rng(SEED).standard_normal((_NOISES, DIM))
    with psycopg.connect(dsn) as connection:
        register_vector(connection)
        connection.execute(f"CREATE TEMP TABLE bench_noise (number int, noise vector({DIM}))")
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO bench_noise VALUES (%s, %s)",
                list(enumerate(normalised(noises) * np.float32(_NOISE_LENGTH))),
            )
            cursor.execute("SELECT count(*), max(id) FROM doc_embeddings")
            there, last = cursor.fetchone() or (0, 0)
            version = 0
            while there < rows:
                version += 1
                cursor.execute(
                    _REPEAT,
                    {
                        "version": version,
                        "noises": _NOISES,
                        "last": last,
                        "missing": rows - there,
                    },
                )
                there += cursor.rowcount


def settle_down(dsn: str) -> None:
    """Let the server finish its own work, so that no way of copying pays for what came before."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
