"""The store adapter for PostgreSQL with pgvector."""

from proxy.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
