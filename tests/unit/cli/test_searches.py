"""What `crossfade plan` says of searches: no mode that would be refused, none left out."""

from __future__ import annotations

import pytest

from proxy.cli.searches import offered_searches
from proxy.config.loader import load_text

CONFIG = """
migration: m
old: {{engine: memory}}
new: {{engine: memory}}
ledger: {{engine: memory}}
collections:
  items:
    key: [id]
    fields: {{id: {{type: text, required: true}}, title: {{type: text}}}}
    {about}
    old: {{table: items, columns: {{id: id, title: title{old}}}}}
    new: {{table: items, columns: {{id: id, title: title{new}}}}}
"""
VECTOR = ", v: {vector: true}"


@pytest.mark.parametrize(
    ("about", "columns", "modes"),
    [
        ("vector: {dim: 3}", VECTOR, ("vector",)),
        (
            "vector: {dim: 384}\n    embedding: {model: m, template: '{title}'}",
            VECTOR,
            ("vector", "text"),
        ),
        ("keyword: {fields: [title]}", "", ("keyword",)),
        (
            "vector: {dim: 3}\n    keyword: {fields: [title]}",
            VECTOR,
            ("vector", "keyword", "hybrid"),
        ),
        ("{}", "", ()),
    ],
)
def test_the_modes_of_a_collection_are_those_that_a_client_may_ask_for(
    about: str, columns: str, modes: tuple[str, ...]
) -> None:
    about = "" if about == "{}" else about
    config = load_text(CONFIG.format(about=about, old=columns, new=columns), "t.yaml", {})
    found = offered_searches(config)
    assert [item.modes for item in found] == ([modes] if modes else [])


def test_stores_of_two_models_take_no_vector_of_a_client() -> None:
    about = (
        "keyword: {fields: [title]}\n    vector: {dim: 384}\n"
        "    embedding: {model: small, template: '{title}'}"
    )
    other = VECTOR + "}, vector: {dim: 768}, embedding: {model: large, template: '{title}'"
    text = CONFIG.format(about=about, old=VECTOR, new=other)
    config = load_text(text, "t.yaml", {})
    (found,) = offered_searches(config)
    assert found.modes == ("text", "keyword", "hybrid")
    assert found.models == ("small", "large")
