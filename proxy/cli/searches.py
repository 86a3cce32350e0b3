"""How each collection can be searched, and what the answers are ranked by in each store."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.loader import Config
from proxy.model import CollectionSpec
from proxy.query import SearchMode
from proxy.stores.modes import modes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """The searches of one collection.

    Attributes:
        modes: what a client may ask for, in the order of `SearchMode`.
        fields: where words are looked for.
        models: those that embed the text of a search, old store first.
    """

    collection: str
    modes: tuple[str, ...]
    fields: tuple[str, ...]
    models: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return it as `crossfade plan --json` shows it."""
        return {
            "modes": list(self.modes),
            "keyword_fields": list(self.fields),
            "models": list(self.models),
        }


def offered_searches(config: Config) -> list[Offered]:
    """Return the searches of every collection that has any."""
    found = []
    for name, spec in config.collections.items():
        models = _models(config, name)
        modes = _modes(spec, embeds=bool(models))
        if modes:
            fields = spec.keyword.fields if spec.keyword is not None else ()
            found.append(Offered(collection=name, modes=modes, fields=fields, models=models))
    return found


def _modes(spec: CollectionSpec, *, embeds: bool) -> tuple[str, ...]:
    given = spec.vector is not None and spec.vector.given
    lacking = set[SearchMode]()
    if not given:
        lacking.add(SearchMode.VECTOR)
    if not embeds:
        lacking.add(SearchMode.TEXT)
    if not given and not embeds:
        lacking.add(SearchMode.HYBRID)
    offered = modes_of(spec) - lacking
    return tuple(mode.value for mode in SearchMode if mode in offered)


def _models(config: Config, name: str) -> tuple[str, ...]:
    """Return the models of both stores' vectors, each once."""
    vectors = [schema.collections[name].vector for schema in (config.old, config.new)]
    models = [v.embedding.model for v in vectors if v is not None and v.embedding is not None]
    return tuple(dict.fromkeys(models))
