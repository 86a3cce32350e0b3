"""The demo's input must be real, complete and the same at every run."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from proxy.demo.doc_server import corpus as corpus_module
from proxy.demo.doc_server.corpus import load_corpus
from proxy.demo.doc_server.plan import key_of, make_plan
from proxy.demo.doc_server.traps import ODD_CRATE, with_traps
from proxy.demo.doc_server.vectors import DIM, HashedTfIdf, lift
from proxy.demo.harvest import harvest, questions
from proxy.demo.options import DemoOptions, pace_of
from proxy.errors import Rejected

QUICK = pace_of(DemoOptions(quick=True))


def write_corpus(file: Path, *, vectors: bool, rows: int = 50) -> None:
    """Write a small corpus file."""
    columns: dict[str, object] = {
        "crate_name": [f"crate-{number % 5}" for number in range(rows)],
        "version": [None if number % 5 == 0 else "1.0" for number in range(rows)],
        "doc_path": [f"page-{number}.html" for number in range(rows)],
        "content": [f"the text number {number} about crabs" for number in range(rows)],
        "token_count": pa.array(range(rows), pa.int32()),
    }
    if vectors:
        values = np.random.default_rng(1).standard_normal((rows, 384)).astype("<f4")
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(values.reshape(-1), 384)
    pq.write_table(pa.table(columns), file)


def test_lifting_keeps_every_inner_product() -> None:
    small = np.random.default_rng(7).standard_normal((30, 384)).astype(np.float32)
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    large = lift(small)
    assert large.shape == (30, DIM)
    np.testing.assert_allclose(large @ large.T, small @ small.T, atol=1e-5)
    assert np.array_equal(large, lift(small)), "the matrix is fixed"


def test_a_corpus_with_vectors_is_lifted(tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    write_corpus(file, vectors=True)
    corpus = load_corpus(file, QUICK)
    assert corpus.vectors == "MiniLM lifted"
    assert len(corpus.documents) == 40
    assert len(corpus.live) == 10
    assert all(len(doc.vector or b"") == 4 * DIM for doc in corpus.documents)
    assert any(doc.version is None for doc in corpus.documents)
    assert not {key_of(d) for d in corpus.documents} & {key_of(d) for d in corpus.live}


def test_a_corpus_without_vectors_gets_computed_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    write_corpus(file, vectors=False)
    corpus = load_corpus(file, QUICK)
    assert corpus.vectors == "hashed tf-idf"
    assert corpus.questions


def test_a_corpus_without_a_needed_column_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"crate_name": ["a"], "content": ["b"]}), file)
    with pytest.raises(Rejected, match="version, doc_path, token_count"):
        load_corpus(file, QUICK)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.parquet"
    file.write_text("hello")
    with pytest.raises(Rejected, match="not a readable parquet file"):
        load_corpus(file, QUICK)


def test_a_corpus_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="There is no corpus file"):
        load_corpus(tmp_path / "none.parquet", QUICK)


def test_without_shared_data_the_python_is_harvested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "_FOLDER", Path("nowhere"))
    corpus = load_corpus(None, QUICK, start=tmp_path)
    assert corpus.vectors == "hashed tf-idf"
    assert "Python" in corpus.source
    assert len(corpus.documents) == QUICK.documents
    assert len(corpus.questions) == QUICK.queries


def test_a_harvest_has_about_40_sources_and_5000_texts_in_a_fixed_order() -> None:
    texts = harvest()
    assert 35 <= len({text.source for text in texts}) <= 80
    assert len(texts) >= 4500
    assert len({(text.source, text.path) for text in texts}) == len(texts)
    assert texts == sorted(texts, key=lambda text: (text.source, text.path))
    assert len(questions(texts, 80)) == 80


def test_a_harvest_reads_sources_without_importing_them(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(
        '"""A documentation string of more than thirty characters."""\nraise SystemExit(1)\n'
    )
    (tmp_path / "broken.py").write_text("def (:\n")
    (text,) = harvest(tmp_path)
    assert (text.source, text.path) == ("evil", "evil.html")


def test_related_texts_are_nearer_than_unrelated_ones() -> None:
    texts = [
        "open a file and read its lines",
        "read every line of an open file",
        "send bytes over a network socket",
        "",
    ]
    vectors = HashedTfIdf.fit(texts).vectors(texts)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far + 0.1
    assert not vectors[3].any(), "a text without words has no direction"
    np.testing.assert_allclose(np.linalg.norm(vectors[:3], axis=1), 1.0, rtol=1e-5)


def test_traps_are_in_the_loaded_data(tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    write_corpus(file, vectors=True)
    rows = with_traps(load_corpus(file, QUICK).documents)
    contents = {row.content for row in rows}
    assert "" in contents
    assert any("🦀" in text for text in contents)
    assert any(row.vector is None for row in rows)
    assert any(row.version is None for row in rows)
    assert any(row.token_count is None for row in rows)
    assert max(len(row.path.encode()) for row in rows) > 800
    assert len({key_of(row) for row in rows}) == len(rows)


def test_writers_get_disjoint_keys_and_the_same_ones_for_the_same_seed(tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    write_corpus(file, vectors=True)
    corpus = load_corpus(file, QUICK)
    plan = make_plan(corpus, seed=5, writers=3)
    keys = [key_of(d) for part in (*plan.owned, *plan.fresh, plan.quiet) for d in part]
    keys += plan.hot
    assert len(set(keys)) == len(keys)
    assert plan == make_plan(corpus, seed=5, writers=3)
    assert plan != make_plan(corpus, seed=6, writers=3)
    assert any(document.crate == ODD_CRATE for document in plan.quiet)
