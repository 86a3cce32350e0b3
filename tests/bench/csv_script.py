"""The other direct equivalent: the plan's own migration script, rows through a CSV file.

As plans of this kind are written: read every row with its vector as text, write a CSV file, read
the file, insert by executemany, count. Run: python -m tests.bench.csv_script OLD NEW ROWS FILE
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import psycopg

_READ = (
    "SELECT id, crate_name, doc_path, content, embedding::text, token_count, created_at::text"
    " FROM doc_embeddings ORDER BY id LIMIT %s"
)
_INSERT = (
    "INSERT INTO documents (doc_type, source_name, doc_path, content, metadata, embedding,"
    " token_count, created_at) VALUES ('rust', %s, %s, %s, %s, %s::vector, %s, %s)"
)


def migrate(old_dsn: str, new_dsn: str, rows: int, file: Path) -> tuple[int, float]:
    """Move `rows` documents; return how many are there afterwards and the seconds it took."""
    began_s = time.perf_counter()
    with psycopg.connect(old_dsn) as old:
        found = old.execute(_READ, [rows]).fetchall()
    with file.open("w", newline="", encoding="utf-8") as sink:
        csv.writer(sink).writerows(found)
    csv.field_size_limit(2**27)
    with file.open(newline="", encoding="utf-8") as source:
        values = [_values(row) for row in csv.reader(source)]
    with psycopg.connect(new_dsn) as new:
        with new.cursor() as cursor:
            cursor.executemany(_INSERT, values)
        count = new.execute("SELECT count(*) FROM documents").fetchone()
    return (int(count[0]) if count else 0), time.perf_counter() - began_s


def _values(row: list[str]) -> tuple[str | None, ...]:
    number, crate, path, content, embedding, tokens, created = row
    metadata = json.dumps({"original_id": int(number), "crate_name": crate})
    return (crate, path, content, metadata, embedding or None, tokens or None, created)


if __name__ == "__main__":
    counted, seconds = migrate(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    print(json.dumps({"rows": counted, "seconds": seconds}))
