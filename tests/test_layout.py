"""The test database is the real thing."""

from collections.abc import Callable

import psycopg


def test_a_fresh_database_has_pgvector(new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database()) as connection:
        connection.execute("CREATE EXTENSION vector")
        row = connection.execute("SELECT '[1,2]'::vector <=> '[1,2]'::vector").fetchone()
    assert row == (0.0,)
