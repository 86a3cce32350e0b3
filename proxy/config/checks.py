"""Checks across settings: deadlines against leases, addresses, connection strings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from proxy.config.secrets import has_password
from proxy.config.settings import LATE_WRITE_S, LedgerSettings, Settings, StoreSettings
from proxy.config.source import Path, Source
from proxy.errors import Violation
from proxy.layouts import StoreSchema

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\s\[\]]+):(?P<port>\d{1,5})\Z")
_UNIX = re.compile(r"unix:.+")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_PORT_MAX = 65_535


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port" ("[::1]:50051" for IPv6).

    Raises:
        ValueError: it is not of this form.
    """
    match = _ADDRESS.match(address)
    if match is None or int(match["port"]) > _PORT_MAX:
        raise ValueError(f"not host:port: {address!r}")
    return match["host"].strip("[]"), int(match["port"])


def check_settings(settings: Settings, source: Source) -> tuple[Violation, ...]:
    """Return what is wrong with settings that are each fine on their own."""
    checks = (
        _dsns(settings),
        _uris(settings),
        _pools(settings),
        _timing(settings),
        _listen(settings),
    )
    # A value that could not be filled in is empty, and has been told once.
    told = {problem.where for problem in source.problems}
    return tuple(
        Violation(where=where, expected=expected, got=got)
        for check in checks
        for path, expected, got in check
        if (where := source.where(path)) not in told
    )


def _dsns(settings: Settings) -> Iterator[tuple[Path, str, str]]:
    for name, part in _parts(settings):
        if part.engine == "postgresql" and not part.dsn:
            expected = "a connection string such as postgresql://user@host/database"
            yield (name, "dsn"), expected, "nothing"
        if part.engine != "postgresql" and part.dsn:
            yield (name, "dsn"), f"no dsn for the engine {part.engine}", "one"


def _uris(settings: Settings) -> Iterator[tuple[Path, str, str]]:
    for name, store in (("old", settings.old), ("new", settings.new)):
        if store.engine == "lancedb":
            if not store.uri:
                expected = "a folder, or the URI of an object store such as s3://bucket/folder"
                yield (name, "uri"), expected, "nothing"
            continue
        for item in ("uri", "namespace", "lance"):
            if item in store.model_fields_set:
                yield (name, item), f"no {item} for the engine {store.engine}", "one"


def _parts(settings: Settings) -> tuple[tuple[str, StoreSettings | LedgerSettings], ...]:
    return (("old", settings.old), ("new", settings.new), ("ledger", settings.ledger))


def _pools(settings: Settings) -> Iterator[tuple[Path, str, str]]:
    for name, store in (("old", settings.old), ("new", settings.new)):
        if store.pool_size_min > store.pool_size_max:
            expected = f"at most pool_size_max ({store.pool_size_max})"
            yield (name, "pool_size_min"), expected, str(store.pool_size_min)


def _timing(settings: Settings) -> Iterator[tuple[Path, str, str]]:
    lease = settings.ledger.lease_s
    for name in ("primary_deadline_s", "secondary_deadline_s"):
        deadline = getattr(settings.writes, name)
        if deadline >= lease:
            expected = f"less than ledger.lease_s ({lease:g}): a store call must end in the lease"
            yield ("writes", name), expected, f"{deadline:g}"
    if settings.switch.drain_timeout_s >= settings.writes.hold_max_s:
        expected = (
            f"less than writes.hold_max_s ({settings.writes.hold_max_s:g}):"
            " a held write must not fail before the swap gives up"
        )
        yield ("switch", "drain_timeout_s"), expected, f"{settings.switch.drain_timeout_s:g}"


def _listen(settings: Settings) -> Iterator[tuple[Path, str, str]]:
    listen = settings.listen
    for name, address in (("address", listen.address), ("metrics", listen.metrics)):
        if (name == "metrics" and not address) or (name == "address" and _UNIX.match(address)):
            continue
        try:
            split_address(address)
        except ValueError:
            yield ("listen", name), "host:port (port 0 picks a free one)", repr(address)
    provider = settings.flags.provider
    if provider and not _FACTORY.match(provider):
        yield ("flags", "provider"), '"package.module:factory"', repr(provider)


def check_stores(
    settings: Settings, old: StoreSchema, new: StoreSchema, source: Source
) -> tuple[Violation, ...]:
    """Refuse a migration of a table onto itself."""
    if settings.old.engine == settings.new.engine == "lancedb":
        return _one_folder(settings, source)
    same = settings.old.engine == settings.new.engine == "postgresql"
    if not same or settings.old.dsn != settings.new.dsn:
        return ()
    shared = {item.table for item in old.layouts.values()} & {
        item.table for item in new.layouts.values()
    }
    return tuple(
        Violation(
            where=source.where(("new", "dsn")),
            expected="another database than old.dsn, or other tables",
            got=f'the table "{table}" on both sides',
        )
        for table in sorted(shared)
    )


def check_embedder(
    settings: Settings, old: StoreSchema, new: StoreSchema, source: Source
) -> tuple[Violation, ...]:
    """Refuse a queue that the texts of the largest batch could never enter."""
    embeds = any(
        spec.vector is not None and spec.vector.embedding is not None
        for schema in (old, new)
        for spec in schema.collections.values()
    )
    items, queue = settings.limits.batch_items_max, settings.embedder.queue_texts_max
    if not embeds or items <= queue:
        return ()
    expected = f"at least limits.batch_items_max ({items}): the texts of a batch wait together"
    where = source.where(("embedder", "queue_texts_max"))
    return (Violation(where=where, expected=expected, got=str(queue)),)


def _one_folder(settings: Settings, source: Source) -> tuple[Violation, ...]:
    """A folder has one writer, and its tables one layout."""
    if folder_of(settings.old) != folder_of(settings.new):
        return ()
    return (
        Violation(
            where=source.where(("new", "uri")),
            expected="another folder than the old store's (uri and namespace)",
            got=f'"{settings.new.uri}" on both sides',
        ),
    )


def folder_of(store: StoreSettings) -> str:
    """Return where a lancedb store lies: the one form of its uri, with its namespace."""
    uri = store.uri.removeprefix("file://")
    root = uri.rstrip("/") if "://" in uri else os.path.realpath(uri)
    return f"{root}/{store.namespace}" if store.namespace else root


def warn_settings(settings: Settings, source: Source) -> tuple[str, ...]:
    """Return what is allowed but deserves a look."""
    found = []
    for name, part in _parts(settings):
        if has_password(part.dsn) and (name, "dsn") not in source.from_environment:
            where = source.where((name, "dsn"))
            found.append(f"{where} holds a password in clear text; write ${{VARIABLE}} instead")
        if part.engine == "lancedb":
            found.append(
                f"{name} is LanceDB, which has no transactions: while it is primary, an atomic"
                " batch of several writes is refused (UNIMPLEMENTED)"
            )
        if part.engine == "memory":
            found.append(
                f"{name} is in memory: it is empty at every start, and seen by nobody else"
            )
    found += _read_too_long(settings, source)
    if settings.writes.late_write_s < LATE_WRITE_S:
        found.append(
            f"{source.where(('writes', 'late_write_s'))}: a write that was given up may still land"
            f" for {LATE_WRITE_S:g} s; a repair that comes before it leaves the stores different"
        )
    return tuple(found)


def _read_too_long(settings: Settings, source: Source) -> Iterator[str]:
    """A LanceDB read of a version that is removed meanwhile fails."""
    deadlines = {
        "reads.deadline_s": settings.reads.deadline_s,
        "reconcile.deadline_s": settings.reconcile.deadline_s,
    }
    for name, store in (("old", settings.old), ("new", settings.new)):
        keep_s = store.lance.keep_versions_s
        late = [at for at, deadline_s in deadlines.items() if deadline_s >= keep_s]
        if store.engine == "lancedb" and late:
            where = source.where((name, "lance", "keep_versions_s"))
            yield (
                f"{where}: versions are removed after {keep_s:g} s, and {' and '.join(late)} lets"
                " a read last as long: it would fail"
            )
