"""The embedder of a process: made if a collection needs one, and checked against both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from proxy.clock import Clock
from proxy.config.loader import Config
from proxy.embedding.base import Embedder
from proxy.errors import ConfigInvalid, Violation


async def open_embedder(config: Config, clock: Clock) -> Embedder | None:
    """Return an open embedder of the models that the collections name; None if they name none.

    Raises:
        ConfigInvalid: a package or a model is missing, or a model's vectors are not as long as
            those of a store.
        Unavailable: the models were not loaded in time.
    """
    if not config.models:
        return None
    from proxy.embedding.build import build_embedder

    embedder = build_embedder(config.settings.embedder, sorted(config.models), clock)
    try:
        await embedder.open()
        check_dimensions(config, embedder)
    except BaseException:
        await embedder.close()
        raise
    return embedder


async def abandon(loading: asyncio.Task[Embedder | None]) -> None:
    """Close an embedder that is being opened, or open already: the start has failed."""
    loading.cancel()
    await asyncio.wait((loading,))
    if loading.cancelled() or loading.exception() is not None:
        return  # It has closed what it had opened.
    embedder = loading.result()
    if embedder is not None:
        await embedder.close()


def check_dimensions(config: Config, embedder: Embedder) -> None:
    """Compare each model's dimension with what the stores are configured for.

    Raises:
        ConfigInvalid: they differ.
    """
    found = tuple(_misfits(config, embedder))
    if found:
        raise ConfigInvalid("The stores do not fit the models of their vectors.", found)


def _misfits(config: Config, embedder: Embedder) -> Iterator[Violation]:
    for side, schema in (("old", config.old), ("new", config.new)):
        for name, spec in schema.collections.items():
            if spec.vector is None or spec.vector.embedding is None:
                continue
            model = spec.vector.embedding.model
            dim = embedder.dim(model)
            if dim != spec.vector.dim:
                yield Violation(
                    where=f"{side} store, collections.{name}.vector.dim",
                    expected=f"{dim}, the dimension of the model {model}",
                    got=str(spec.vector.dim),
                )
