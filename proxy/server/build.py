"""Make the stores and the ledger that a configuration names; drivers are imported when needed."""

from __future__ import annotations

from proxy.clock import Clock
from proxy.config.settings import Settings, StoreSettings
from proxy.errors import ConfigInvalid, Violation
from proxy.layouts import StoreSchema
from proxy.ledger.base import Ledger
from proxy.stores.base import Store


def build_store(
    name: str,
    settings: StoreSettings,
    schema: StoreSchema,
    clock: Clock,
    *,
    look_ahead: bool = False,
) -> Store:
    """Return the adapter that a configuration asks for, not yet open.

    Args:
        look_ahead: it is only looked at: nothing is locked, written or made, and tables that the
            proxy will make when it starts count as empty.
    """
    if settings.engine == "memory":
        from proxy.stores.memory import MemoryStore

        return MemoryStore(name, schema, clock)
    if settings.engine == "lancedb":
        return _lance_store(name, settings, schema, clock, look_ahead=look_ahead)
    from proxy.stores.postgres import PostgresStore

    return PostgresStore(
        name,
        settings.dsn,
        schema,
        pool_min=settings.pool_size_min,
        pool_max=settings.pool_size_max,
    )


def _lance_store(
    name: str, settings: StoreSettings, schema: StoreSchema, clock: Clock, *, look_ahead: bool
) -> Store:
    try:
        from proxy.stores.lancedb import LanceStore
    except ModuleNotFoundError as error:
        wrong = Violation(
            where=f"{name}.engine", expected="an installed engine", got=f"lancedb ({error})"
        )
        raise ConfigInvalid(
            'LanceDB is not installed: pip install "crossfade[lancedb]".', (wrong,)
        ) from error
    return LanceStore(name, settings, schema, clock, look_ahead=look_ahead)


def build_ledger(settings: Settings, clock: Clock) -> Ledger:
    """Return the ledger that a configuration asks for, not yet open."""
    if settings.ledger.engine == "memory":
        from proxy.ledger.memory import MemoryLedger

        return MemoryLedger(clock)
    from proxy.ledger.postgres import PostgresLedger

    return PostgresLedger(
        settings.ledger.dsn, settings.migration, pool_size_max=settings.ledger.pool_size_max
    )
