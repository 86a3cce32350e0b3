"""The work items of the demo must be many, odd, linked, and the same for the same seed."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from proxy.demo.harvest import Text
from proxy.demo.options import DemoOptions, pace_of
from proxy.demo.oracle import Oracle
from proxy.demo.scenarios import prepare
from proxy.demo.work_items import origin as origin_module
from proxy.demo.work_items.corpus import Corpus, make_corpus
from proxy.demo.work_items.fit import stale, without_sense
from proxy.demo.work_items.items import FIELDS, image_of, text_of
from proxy.demo.work_items.origin import find_origin, planned
from proxy.demo.work_items.plan import make_plan
from proxy.demo.work_items.readers import questions_about
from proxy.demo.work_items.traps import ODD_RELEASE
from proxy.demo.work_items.writers import reworded, worked_on
from proxy.errors import Rejected
from proxy.model import JsonValue, Key

PACE = replace(pace_of(DemoOptions(quick=True)), documents=200, live_documents=60, queries=10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a small file of items, each of which depends on the one before."""
    path = tmp_path / "items.jsonl"
    rows = [
        {
            "item_id": f"item-{number:04}",
            "title": f"Build the part number {number}",
            "description": f"It is described as {number}",
            "parent_id": "item-0000" if number else None,
            "dependencies": [f"item-{number - 1:04}"] if number else [],
            "tags": ["parts"],
            "notes": f"Somebody wrote some words about part {number}. And more",
        }
        for number in range(30)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture
def corpus(file: Path) -> Corpus:
    """Return what a run would work on."""
    return make_corpus(find_origin(file), PACE, 7)


def test_there_are_as_many_items_as_asked_for_each_with_an_id_of_its_own(corpus: Corpus) -> None:
    assert len(corpus.items) == 200
    assert len(corpus.live) == 60
    assert len({item.id for item in [*corpus.items, *corpus.live]}) == 260
    assert all(tuple(sorted(item.fields)) == tuple(sorted(FIELDS)) for item in corpus.items)
    assert len(corpus.questions) == 10


def test_the_same_seed_makes_the_same_items_and_another_one_others(
    file: Path, corpus: Corpus
) -> None:
    assert make_corpus(find_origin(file), PACE, 7) == corpus
    assert make_corpus(find_origin(file), PACE, 8) != corpus


def test_edits_keep_some_texts_and_change_others(corpus: Corpus) -> None:
    texts = Counter(item.text for item in corpus.items)
    assert 30 < len(corpus.texts) < 150
    assert max(texts.values()) > 1


def test_links_lead_to_items_of_the_same_edition(corpus: Corpus) -> None:
    everything = {item.id: item for item in [*corpus.items, *corpus.live]}
    linked = [item for item in everything.values() if item.fields["parent_id"]]
    assert len(linked) > 100
    for item in linked:
        parent = everything[str(item.fields["parent_id"])]
        assert parent.texts("context_tags")[0] == item.texts("context_tags")[0]
    depending = [item for item in everything.values() if item.texts("dependencies")]
    assert all(set(item.texts("dependencies")) <= everything.keys() for item in depending)


def test_every_trap_is_in_the_loaded_items(corpus: Corpus) -> None:
    def values(name: str) -> list[object]:
        return [item.fields[name] for item in corpus.items]

    assert None in values("progress")
    assert None in values("created_at")
    assert set(values("execution_instructions")) == {None}, "an all-null column"
    for name in ("tags", "acceptance_criteria", "dependencies"):
        assert None in values(name)
        assert [] in values(name)
    assert any(len(item.texts("acceptance_criteria")) > 1 for item in corpus.items)
    assert {} in values("metadata")
    assert None in values("metadata")
    assert 2**53 + 1 in values("order_index")
    assert any("🦀" in str(title) for title in values("title"))
    assert any(not item.text for item in corpus.items), "an item that no vector can be made of"


def test_writers_get_items_of_their_own_and_odd_ones_stay_quiet(corpus: Corpus) -> None:
    plan = make_plan(corpus, seed=5, writers=3)
    items = [item for part in (*plan.owned, *plan.fresh, plan.quiet) for item in part]
    keys = [item.key for item in items] + list(plan.hot)
    assert len(keys) == len(set(keys)) == 200 + 60 + len(plan.hot)
    assert plan == make_plan(corpus, seed=5, writers=3)
    odd = {item.id for item in corpus.items if ODD_RELEASE in item.texts("context_tags")}
    assert odd <= {item.id for item in plan.quiet}


def test_the_scenario_tells_the_oracle_what_every_owned_item_holds(file: Path) -> None:
    scenario = prepare(DemoOptions(preset="work-items", corpus=file, quick=True), 3)
    oracle = Oracle()
    scenario.know(oracle)
    known = oracle.dump()["keys"]
    assert isinstance(known, list)
    assert len(known) > 100
    assert scenario.profile.replicas_max == 1


def test_a_rewording_changes_the_text_and_a_day_of_work_does_not(corpus: Corpus) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    item = corpus.items[0]
    for number in range(50):
        assert item.changed(**reworded(item, rng, f"n {number}")).text != item.text
        worked = item.changed(**worked_on(rng))
        assert worked.text == item.text
        assert image_of(worked) != image_of(item)


def test_a_condition_selects_some_of_its_release_and_nothing_else(corpus: Corpus) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    images = [image_of(item) or {} for item in corpus.items]
    sizes = []
    for _ in range(40):
        question = questions_about("release-1", rng)
        chosen = [image for image in images if question.holds(image)]
        tags = [image["context_tags"] for image in chosen]
        assert all(isinstance(one, list) and "release-1" in one for one in tags)
        sizes.append(len(chosen))
    assert 0 < max(sizes) < 30


def test_documentation_is_read_as_modules_with_classes_with_functions() -> None:
    texts = [
        Text(source="lib", path="lib/a.html", content="The module. It does things."),
        Text(source="lib", path="lib/a.html#Tool", content="A tool. With teeth."),
        Text(source="lib", path="lib/a.html#Tool.use", content="Use the tool."),
        Text(source="lib", path="lib/a.html#Tool.drop", content="Drop the tool."),
        Text(source="lib", path="lib/a.html#run", content="Run everything."),
        Text(source="lib", path="lib/a.html#bare.go", content="Go, in a class without a word."),
    ]
    module, tool, drop, use, bare, run = planned(texts, 100)
    assert [item.kind for item in (module, tool, drop, use, run)] == [
        "epic",
        "feature",
        "task",
        "task",
        "task",
    ]
    assert (module.parent, tool.parent, run.parent) == ("", module.id, module.id)
    assert (drop.parent, use.parent, bare.parent) == (tool.id, tool.id, module.id)
    assert list(use.dependencies) == [drop.id]
    assert (tool.title, tool.description) == ("A tool", "With teeth.")


def test_without_shared_data_the_documentation_of_this_python_is_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin_module, "_FOLDER", Path("nowhere"))
    origin = find_origin(None, start=tmp_path)
    assert "Python" in origin.source
    assert 900 <= len(origin.seedlings) <= 1500
    ids = {seedling.id for seedling in origin.seedlings}
    assert len(ids) == len(origin.seedlings)
    assert {seedling.kind for seedling in origin.seedlings} == {"epic", "feature", "task"}
    assert all(seedling.parent in ids for seedling in origin.seedlings if seedling.parent)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one item"),
        ("{", "items.jsonl:1 needs a JSON object"),
        ("[1]", "needs a JSON object"),
        ('{"item_id": "a", "title": 1}', "needs a text title, got 1"),
        ('{"title": "a"}', "needs a text item_id"),
        ('{"item_id": "a", "title": "a"}\n' * 2, "items.jsonl:2 needs an item_id of its own"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Rejected, match=words):
        find_origin(file)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="There is no corpus file"):
        find_origin(tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(Rejected, match="not a readable file"):
        find_origin(tmp_path / "bytes")


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(Rejected, match="doc-server or work-items"):
        prepare(DemoOptions(preset="jive"), 1)


def test_a_vector_that_does_not_fit_its_words_is_named() -> None:
    def vector(*values: float) -> bytes:
        return np.array(values, dtype="<f4").tobytes()

    rows: dict[Key, dict[str, JsonValue]] = {
        ("right",): {"title": "a", "description": "b"},
        ("stale",): {"title": "a", "description": "c"},
        ("zero",): {"title": "a", "description": None},
        ("empty",): {"title": "", "description": None},
        ("too much",): {"title": "", "description": ""},
    }
    vectors: dict[Key, bytes | None] = {
        ("right",): vector(1, 0),
        ("stale",): vector(1, 0),
        ("zero",): vector(0, 0),
        ("empty",): None,
        ("too much",): vector(1, 0),
    }
    assert text_of(rows["right",]) == "a b"
    (sentence,) = without_sense(rows, vectors)
    assert sentence.startswith("2 work items")
    assert "zero, too much" in sentence
    (sentence,) = stale(rows, vectors, {"a b": vector(1, 0), "a c": vector(0.6, 0.8)})
    assert "stale" in sentence
    assert "right" not in sentence
