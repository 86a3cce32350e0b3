"""The embedder of a configuration; nothing heavy is imported, and nothing runs before `open`."""

from __future__ import annotations

from collections.abc import Collection

from proxy.clock import Clock, SystemClock
from proxy.config.settings import EmbedderSettings
from proxy.embedding.base import Embedder
from proxy.embedding.locate import need_backend
from proxy.embedding.process import ProcessEmbedder


def build_embedder(
    settings: EmbedderSettings, models: Collection[str], clock: Clock | None = None
) -> Embedder:
    """Return the embedder of these models, not yet opened.

    Raises:
        ConfigInvalid: a package is missing; it says what to install.
    """
    need_backend(settings.backend)
    return ProcessEmbedder(settings, models, clock or SystemClock())
