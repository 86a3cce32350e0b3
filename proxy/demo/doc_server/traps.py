"""Rows that break careless migrations: nulls, odd texts, long keys, empty parents, every status."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.demo.doc_server.corpus import Document

ODD_CRATE = "odd-texts"
EMPTY_CRATE = "no-documents"
_NULL_VECTOR_EVERY = 97
_NULL_VERSION_EVERY = 13

_ODD_TEXTS = (
    ("empty", ""),
    ("blank", " \t\n\r "),
    ("quotes", """it's "quoted", `ticked`, $dollar$ and \\back\\slashed\\"""),
    ("percent", "100% of under_scores \\% \\_ [a-z]* ?"),
    ("unicode", "naïve façade Ω≈ç√ 日本語 العربية עברית 🦀🚀"),
    ("combining", "e\u0301 differs from \u00e9, \u212b from \u00c5"),
    ("invisible", "zero\u200bwidth\u00a0space\ufeff\u202eright to left"),
    ("null-lookalikes", "NULL null \\N None NaN nil undefined"),
    ("json", '{"a": [1, null, "\\u0041"], "b": "}"}'),
    ("csv", 'a,b;"c\td"\r\n\\.\n,,'),
    ("sql", "'); DROP TABLE documents; --"),
    ("large", "Lorem ipsum \u2014 dolor sit amet. " * 6000),
)
_ODD_PATHS = (
    "odd/path with spaces/and'quotes\".html",
    "odd/日本語/🦀.html#méthode",
    "odd/UPPER.html",
    "odd/upper.html",
    "odd/" + "very-long-path-segment/" * 38 + "end.html",
    "odd/%_\\.html",
    " ",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrateConfig:
    """One row of crate_configs in the old database."""

    name: str
    version_spec: str
    current_version: str | None
    features: list[str] | None
    expected_docs: int
    enabled: bool
    last_checked: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationJob:
    """One row of population_jobs; `config` is the position of its crate_configs row."""

    config: int
    status: str
    started_at: dt.datetime | None
    error_message: str | None
    docs_populated: int | None


def with_traps(documents: Sequence[Document]) -> list[Document]:
    """Return the documents with nulls among them, and the odd ones behind them."""
    first = documents[0]
    crates = sorted({document.crate for document in documents})
    unversioned = set(crates[::_NULL_VERSION_EVERY])
    spoiled = []
    for number, document in enumerate(documents):
        version = None if document.crate in unversioned else document.version
        vector = None if number % _NULL_VECTOR_EVERY == 5 else document.vector
        spoiled.append(replace(document, version=version, vector=vector))
    return [*spoiled, *_odd_documents(first.vector)]


def crate_configs(crates: Sequence[str], now: dt.datetime) -> list[CrateConfig]:
    """Return one configuration a crate; some disabled, some never checked, some odd."""
    odd = ["", "a b", "q\"uo'te", "ü,{}", "NULL"]
    return [
        CrateConfig(
            name=crate,
            version_spec="latest" if number % 3 else f"^{number}.0, <{number + 1}",
            current_version=None if number % 4 == 0 else f"{number}.0.1",
            features=(None, [], ["full"], odd)[number % 4],
            expected_docs=number * 10,
            enabled=number % 5 != 0,
            last_checked=None
            if number % 6 == 0
            else now - dt.timedelta(days=number, microseconds=7),
        )
        for number, crate in enumerate(crates)
    ]


def population_jobs(configs: int, now: dt.datetime) -> list[PopulationJob]:
    """Return two jobs a configuration, in every status."""
    statuses = ("pending", "running", "completed", "failed")
    return [
        PopulationJob(
            config=number % configs,
            status=statuses[number % 4],
            started_at=None if number % 4 == 0 else now - dt.timedelta(hours=number),
            error_message='it\'s broken: "€"\n' if number % 4 == 3 else None,
            docs_populated=None if number % 4 == 0 else number,
        )
        for number in range(2 * configs)
    ]


def _odd_documents(vector: bytes | None) -> list[Document]:
    def document(path: str, content: str, tokens: int | None) -> Document:
        return Document(
            crate=ODD_CRATE,
            version=None,
            path=path,
            content=content,
            token_count=tokens,
            vector=vector if tokens else None,
        )

    texts = [
        document(f"odd/{name}.html", content, (None, 0, 2**31 - 1)[number % 3])
        for number, (name, content) in enumerate(_ODD_TEXTS)
    ]
    return texts + [document(path, f"path {number}", 1) for number, path in enumerate(_ODD_PATHS)]
