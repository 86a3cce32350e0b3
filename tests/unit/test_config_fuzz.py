"""Whatever text comes, the loader answers with a configuration or ConfigInvalid, and soon."""

from __future__ import annotations

import re

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.loader import example, load_text, preset_text
from proxy.errors import ConfigInvalid

SECRET = "s3cr3t-hunter2"
EXAMPLES = 30
VARIABLES = {
    "OLD_DSN": f"password={SECRET}",
    "NEW_DSN": f"postgresql://u:{SECRET}@h/n",
    "LEDGER_DSN": "dbname=l",
}
LINES = example().splitlines()
PRESET_LINES = preset_text("doc-server").splitlines()
ODD = st.sampled_from(
    ["", "null", "[]", "{}", "- a", "x: 1", "*a", "&a", "!!python/none", "${", "${OLD_DSN}"]
) | st.sampled_from(["\t", "'", "? a", "1e999", "0x", "~", "|", "no"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ODD
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


def assert_answered(text: str) -> None:
    """Load; a refusal must name a line for each problem, and no secret."""
    refused: ConfigInvalid | None = None
    try:
        load_text(text, "f.yaml", VARIABLES)
    except ConfigInvalid as error:
        refused = error
    if refused is not None:
        assert SECRET not in str(refused)
        for problem in refused.violations:
            assert re.match(r"(f\.yaml|preset doc-server):\d+", problem.where), problem


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.text(max_size=200))
def test_any_text_is_answered(text: str) -> None:
    assert_answered(text)


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.integers(0, len(LINES) - 1), ODD, st.integers(0, 8))
def test_a_damaged_example_is_answered(line: int, odd: str, indent: int) -> None:
    changed = [*LINES]
    changed[line] = " " * indent + changed[line].strip().partition(":")[0] + ": " + odd
    assert_answered("\n".join(changed))


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.integers(0, len(PRESET_LINES) - 1), ODD, st.booleans())
def test_damaged_collections_are_answered(line: int, odd: str, drop: bool) -> None:
    head = [text for text in LINES if not text.startswith("preset:")]
    body = [*PRESET_LINES]
    body[line : line + 1] = [] if drop else [body[line].partition(":")[0] + ": " + odd]
    assert_answered("\n".join([*head, *body]))


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.sampled_from(["old", "writes", "collections", "listen", "flags", "migration"]), TREES)
def test_any_value_of_a_section_is_answered(section: str, tree: object) -> None:
    base = yaml.safe_load(example().replace("$", ""))
    base[section] = tree
    assert_answered(yaml.safe_dump(base))
