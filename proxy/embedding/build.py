"""The embedder of a configuration; nothing heavy is imported, and nothing runs before `open`."""

from __future__ import annotations

from collections.abc import Collection

from proxy.clock import Clock, SystemClock
from proxy.config.settings import EmbedderSettings
from proxy.embedding.base import Embedder
from proxy.embedding.locate import hint_for, locate, need_backend, need_model
from proxy.embedding.process import ProcessEmbedder
from proxy.errors import ConfigInvalid


def build_embedder(
    settings: EmbedderSettings, models: Collection[str], clock: Clock | None = None
) -> Embedder:
    """Return the embedder of these models, not yet opened.

    Raises:
        ConfigInvalid: a package is missing; it says what to install.
    """
    need_backend(settings.backend)
    return ProcessEmbedder(settings, models, clock or SystemClock())


def model_problems(settings: EmbedderSettings, models: Collection[str]) -> list[str]:
    """Say what keeps these models from being loaded, as far as can be told without loading them."""
    if not models:
        return []
    try:
        need_backend(settings.backend)
    except ConfigInvalid as error:
        return [str(error)]
    problems = []
    for model in sorted(models):
        try:
            need_model(locate(model))
        except FileNotFoundError as error:
            problems.append(f"The model {model} cannot be loaded: {error}. {hint_for(model)}")
    return problems
