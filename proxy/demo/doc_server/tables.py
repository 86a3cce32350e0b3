"""How the independent check reads each collection from both databases, in plain SQL.

The statements were written from the two schemas by hand, so that a mistake in a layout shows.
`us(column)` stands for microseconds since 1970; a timestamp without a zone counts as UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_US = re.compile(r"\bus\(([a-z_.]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How one collection is read from both sides: the first columns of each are the key."""

    collection: str
    key_parts: int
    fields: tuple[str, ...]
    old: str
    new: str


def _sql(statement: str) -> str:
    return _US.sub(r"(extract(epoch FROM \1) * 1000000)::bigint", " ".join(statement.split()))


_CONFIGS = _sql("""
    SELECT id, name, version_spec, current_version, array_to_json(features), expected_docs,
           enabled, us(last_checked), us(last_populated), us(created_at), us(updated_at)
    FROM crate_configs
""")
_JOBS = _sql("""
    SELECT id, crate_config_id, status, us(started_at), us(completed_at), error_message,
           docs_populated, us(created_at)
    FROM population_jobs
""")

TABLES = (
    Table(
        collection="sources",
        key_parts=2,
        fields=("version", "total_docs", "total_tokens", "last_updated"),
        old=_sql("""
            SELECT 'rust', name, version, total_docs, total_tokens, us(last_updated) FROM crates
        """),
        new=_sql("""
            SELECT doc_type, source_name, config->>'version', (config->>'total_docs')::int,
                   (config->>'total_tokens')::int, us(last_populated)
            FROM document_sources
        """),
    ),
    Table(
        collection="documents",
        key_parts=3,
        fields=(
            "content",
            "vector",
            "token_count",
            "created_at",
            "original_id",
            "parent",
            "crate_name",
        ),
        old=_sql("""
            SELECT 'rust', d.crate_name, d.doc_path, md5(d.content),
                   md5(vector_send(d.embedding)), d.token_count, us(d.created_at), d.id, c.name,
                   d.crate_name
            FROM doc_embeddings d LEFT JOIN crates c ON c.id = d.crate_id
        """),
        new=_sql("""
            SELECT d.doc_type, d.source_name, d.doc_path, md5(d.content),
                   md5(vector_send(d.embedding)), d.token_count, us(d.created_at),
                   (d.metadata->>'original_id')::int, s.source_name, d.metadata->>'crate_name'
            FROM documents d LEFT JOIN document_sources s
                 ON s.doc_type = d.doc_type AND s.source_name = d.source_name
        """),
    ),
    Table(
        collection="crate_configs",
        key_parts=1,
        fields=(
            "name",
            "version_spec",
            "current_version",
            "features",
            "expected_docs",
            "enabled",
            "last_checked",
            "last_populated",
            "created_at",
            "updated_at",
        ),
        old=_CONFIGS,
        new=_CONFIGS,
    ),
    Table(
        collection="population_jobs",
        key_parts=1,
        fields=(
            "crate_config_id",
            "status",
            "started_at",
            "completed_at",
            "error_message",
            "docs_populated",
            "created_at",
        ),
        old=_JOBS,
        new=_JOBS,
    ),
)
