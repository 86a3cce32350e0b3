"""The demo's input: documents, live documents and queries, each with a 3072-dimension vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from proxy.demo.doc_server.vectors import HashedTfIdf, Matrix, lift
from proxy.demo.harvest import Text, harvest, questions, source_version
from proxy.demo.options import Pace
from proxy.errors import Reason, Rejected, Violation

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("crate_name", "version", "doc_path", "content", "token_count", "vector")
_FOLDER = Path("shared") / "data"
_LIVE_EVERY = 5
_HARVEST_QUERIES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document as the old application stored it. `vector` is packed float32 or None."""

    crate: str
    version: str | None
    path: str
    content: str
    token_count: int | None
    vector: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One search. `vector` is packed little-endian float32, shape (3072,)."""

    text: str
    vector: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What a run works on.

    Attributes:
        source: a sentence that says where it came from.
        vectors: "MiniLM lifted" or "hashed tf-idf".
        documents: for the old database, before the migration.
        live: for live writes.
    """

    source: str
    vectors: str
    documents: Sequence[Document]
    live: Sequence[Document]
    questions: Sequence[Question]

    def summary(self) -> Mapping[str, str | int]:
        """Return the report's account of the input."""
        return {
            "source": self.source,
            "vectors": self.vectors,
            "documents": len(self.documents),
            "sources": len({document.crate for document in self.documents}),
            "live_documents": len(self.live),
            "queries": len(self.questions),
        }


def load_corpus(file: Path | None, pace: Pace, *, start: Path | None = None) -> Corpus:
    """Read `file`, or the shared data beside the repository, or harvest this Python.

    Args:
        file: a parquet file of documents, None to look for one.
        pace: how much of it to use.
        start: where to look from, None for the current directory.

    Raises:
        Rejected: the file is not there or lacks a column.
    """
    found = file or _find(start or Path.cwd())
    if found is None:
        return _harvested(pace)
    if not found.is_file():
        raise Rejected(f"There is no corpus file {found}.", hint="Give a parquet file to --corpus.")
    return _from_parquet(found, pace)


def _find(start: Path) -> Path | None:
    repository = Path(__file__).resolve().parents[3]
    for base in (start.resolve().parent, start.resolve(), repository.parent, repository):
        candidate = base / _FOLDER / "rust_docs.parquet"
        if candidate.is_file():
            return candidate
    return None


def _from_parquet(file: Path, pace: Pace) -> Corpus:
    table = _read(file, _COLUMNS[:-1])
    live_file = file.with_name(f"{file.stem}_live.parquet")
    if live_file.is_file():
        rows, live = table, _read(live_file, _COLUMNS[:-1])
    else:  # one file alone: every fifth document is kept back for live writes
        late = np.arange(table.num_rows) % _LIVE_EVERY == _LIVE_EVERY - 1
        rows, live = table.filter(~late), table.filter(late)
    rows = _spread(rows, pace.documents)
    live = _spread(live, pace.live_documents)
    asked = _questions_of(file, rows, pace)
    matrices = [_vectors_of(part) for part in (rows, live, asked)]
    if all(matrix is not None for matrix in matrices):
        lifted = lift(np.concatenate([matrix for matrix in matrices if matrix is not None]))
        kind = "MiniLM lifted"
    else:
        lifted = _computed(*(_texts(part) for part in (rows, live, asked)))
        kind = "hashed tf-idf"
    return _assemble(
        {"source": str(file), "vectors": kind},
        rows.to_pylist(),
        live.to_pylist(),
        asked=_texts(asked),
        matrix=lifted,
    )


def _read(file: Path, needed: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise Rejected(
            f"{file} is not a readable parquet file: {error}",
            hint="The corpus needs the columns " + ", ".join(_COLUMNS) + ".",
        ) from error
    missing = [name for name in needed if name not in table.column_names]
    if missing or not table.num_rows:
        raise Rejected(
            f"{file} cannot be used as a corpus.",
            reason=Reason.INVALID_ARGUMENT,
            violations=tuple(
                Violation(where=str(file), expected=f"a column {name}") for name in missing
            )
            or (Violation(where=str(file), expected="at least one row"),),
            hint=f"Missing: {', '.join(missing) or 'rows'}.",
        )
    return table


def _spread(table: pa.Table, limit: int) -> pa.Table:
    """Take rows at even steps, so that a small corpus still has many sources."""
    if not limit or table.num_rows <= limit:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, limit).astype(np.int64))


def _questions_of(file: Path, rows: pa.Table, pace: Pace) -> pa.Table:
    beside = file.with_name("queries.parquet")
    if beside.is_file():
        return _spread(_read(beside, ("text",)), pace.queries)
    step = max(1, rows.num_rows // (pace.queries or _HARVEST_QUERIES))
    columns = [name for name in ("content", "vector") if name in rows.column_names]
    return rows.take(np.arange(0, rows.num_rows, step)).select(columns)


def _texts(table: pa.Table) -> list[str]:
    name = "text" if "text" in table.column_names else "content"
    return [text or "" for text in table.column(name).to_pylist()]


def _vectors_of(table: pa.Table) -> Matrix | None:
    """Return the vectors, shape (rows, d), or None if a row has none."""
    if "vector" not in table.column_names or table.column("vector").null_count:
        return None
    flat = table.column("vector").combine_chunks().flatten()
    return np.asarray(flat, dtype=np.float32).reshape(table.num_rows, -1)


def _harvested(pace: Pace) -> Corpus:
    texts = harvest()
    late = texts[_LIVE_EVERY - 1 :: _LIVE_EVERY]
    early = [text for number, text in enumerate(texts) if (number + 1) % _LIVE_EVERY]
    rows = _spread_texts(early, pace.documents)
    live = _spread_texts(late, pace.live_documents)
    asked = questions(rows, pace.queries or _HARVEST_QUERIES)
    matrix = _computed([t.content for t in rows], [t.content for t in live], asked)
    where = f"documentation strings of Python {source_version()}"
    plain = [[_plain(text) for text in part] for part in (rows, live)]
    about = {"source": where, "vectors": "hashed tf-idf"}
    return _assemble(about, plain[0], plain[1], asked=asked, matrix=matrix)


def _spread_texts(texts: list[Text], limit: int) -> list[Text]:
    if not limit or len(texts) <= limit:
        return texts
    return [texts[int(place)] for place in np.linspace(0, len(texts) - 1, limit)]


def _plain(text: Text) -> dict[str, object]:
    return {
        "crate_name": text.source,
        "version": source_version(),
        "doc_path": text.path,
        "content": text.content,
        "token_count": len(text.content.split()),
    }


def _computed(rows: list[str], live: list[str], asked: list[str]) -> Matrix:
    model = HashedTfIdf.fit(rows)
    return model.vectors([*rows, *live, *asked])


def _assemble(
    about: Mapping[str, str],
    rows: list[dict[str, object]],
    live: list[dict[str, object]],
    *,
    asked: list[str],
    matrix: Matrix,
) -> Corpus:
    """Pair rows with their vectors: `matrix` holds rows, live rows and questions, in this order."""
    packed = [row.astype("<f4").tobytes() for row in matrix]
    split = len(rows)
    return Corpus(
        source=about["source"],
        vectors=about["vectors"],
        documents=[_document(row, vector) for row, vector in zip(rows, packed, strict=False)],
        live=[_document(row, vector) for row, vector in zip(live, packed[split:], strict=False)],
        questions=[
            Question(text=text, vector=vector)
            for text, vector in zip(asked, packed[split + len(live) :], strict=True)
        ],
    )


def _document(row: Mapping[str, object], vector: bytes) -> Document:
    tokens, version = row["token_count"], row["version"]
    return Document(
        crate=str(row["crate_name"]),
        version=None if version is None else str(version),
        path=str(row["doc_path"]),
        content=str(row["content"]),
        token_count=tokens if isinstance(tokens, int) else None,
        vector=vector if any(vector) else None,  # a text without a word has no direction
    )
