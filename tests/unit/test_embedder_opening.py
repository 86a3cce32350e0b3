"""A proxy has an embedder where a collection needs one, and its models fit both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

import proxy.embedding.build
from proxy.clock import SystemClock
from proxy.config.loader import load_text
from proxy.config.settings import EmbedderSettings
from proxy.errors import ConfigInvalid, Unavailable
from proxy.server.embedding import abandon, open_embedder
from tests.embedding import FakeEmbedder
from tests.work_items import DIM, MODEL, OTHER_DIM, OTHER_MODEL, TWO_SPACES, config


class Builds:
    """Stands in for `build_embedder`; keeps what it was asked for."""

    def __init__(self, made: FakeEmbedder) -> None:
        self.made = made
        self.asked: list[str] = []

    def __call__(
        self, settings: EmbedderSettings, models: Collection[str], clock: object
    ) -> FakeEmbedder:
        self.asked = list(models)
        return self.made


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    made = Builds(FakeEmbedder({MODEL: DIM, OTHER_MODEL: OTHER_DIM}))
    monkeypatch.setattr(proxy.embedding.build, "build_embedder", made)
    return made


async def test_the_models_of_both_stores_are_opened(builds: Builds) -> None:
    assert await open_embedder(config(TWO_SPACES), SystemClock()) is builds.made
    assert builds.asked == sorted([MODEL, OTHER_MODEL])
    assert (builds.made.opened, builds.made.closed) == (1, 0)


async def test_no_embedder_is_made_where_nobody_needs_one(builds: Builds) -> None:
    memory = "{engine: memory}"
    text = f"migration: m\npreset: doc-server\nold: {memory}\nnew: {memory}\nledger: {memory}\n"
    assert await open_embedder(load_text(text, "c.yaml", {}), SystemClock()) is None
    assert builds.made.opened == 0


async def test_a_model_of_another_dimension_is_refused_by_name_store_and_both_numbers(
    builds: Builds,
) -> None:
    builds.made.dims = {MODEL: 768, OTHER_MODEL: OTHER_DIM}
    with pytest.raises(ConfigInvalid) as caught:
        await open_embedder(config(), SystemClock())
    assert [str(violation) for violation in caught.value.violations] == [
        f"{side} store, collections.work_items.vector.dim: expected 768, the dimension of the"
        f" model {MODEL}, got 384"
        for side in ("old", "new")
    ]
    assert builds.made.closed == 1, "nothing is left running"


async def test_an_embedder_that_does_not_open_is_closed_again(builds: Builds) -> None:
    builds.made.fail = Unavailable("The model was not loaded in time.", where="embedder")
    with pytest.raises(Unavailable):
        await open_embedder(config(), SystemClock())
    assert builds.made.closed == 1


@pytest.mark.parametrize("opened", [True, False])
async def test_a_start_that_fails_leaves_no_embedder_behind(
    builds: Builds, *, opened: bool
) -> None:
    loading = asyncio.create_task(open_embedder(config(), SystemClock()))
    if opened:
        await asyncio.wait((loading,))
    else:
        builds.made.open = asyncio.Event().wait  # type: ignore[assignment,method-assign]  # it never opens
        await asyncio.sleep(0)
    await abandon(loading)
    assert builds.made.closed == 1


async def test_a_start_whose_embedder_failed_is_over_too(builds: Builds) -> None:
    builds.made.fail = Unavailable("The model was not loaded in time.", where="embedder")
    loading = asyncio.create_task(open_embedder(config(), SystemClock()))
    await asyncio.wait((loading,))
    await abandon(loading)
    assert builds.made.closed == 1
