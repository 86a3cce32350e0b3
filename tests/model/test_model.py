"""The rules of the design hold in every interleaving, and each of them is needed."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.model.checker import explore
from tests.model.instances import LEFT_OUT, SMALL, counterexample
from tests.model.rules import Instance, Rules


@pytest.mark.parametrize("instance", SMALL, ids=lambda instance: instance.name)
def test_every_invariant_holds_in_every_reachable_state(instance: Instance) -> None:
    found = explore(instance, Rules())
    assert not found.broken, "\n".join((found.broken, *found.trace, str(found.last)))
    assert found.states > 1000
    print(f"{instance.name}: {found.states} states")


@pytest.mark.parametrize("rule", [item.name for item in fields(Rules)])
def test_without_any_one_rule_the_model_finds_a_way_to_diverge(rule: str) -> None:
    assert rule in LEFT_OUT
    example = counterexample(rule)
    assert example is not None, f"{rule} is not needed"
    _, found = example
    assert found.trace
    print(rule, found.broken, *found.trace, sep="\n  ")
