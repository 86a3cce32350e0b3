"""The ledger in PostgreSQL (schema `crossfade`, in a database of the user's choice)."""

from proxy.ledger.postgres.ledger import PostgresLedger

__all__ = ["PostgresLedger"]
