"""Print what the model's search has seen, and a counterexample for each rule left out."""

from __future__ import annotations

import sys
import time

from tests.model.checker import INVARIANTS, explore
from tests.model.instances import LARGE, LEFT_OUT, counterexample
from tests.model.rules import Rules


def main() -> int:
    """Explore every instance; return 1 if an invariant does not hold or a rule is not needed."""
    wrong = 0
    total = 0
    print(f"invariants: {'; '.join(INVARIANTS)}\n")
    for instance in LARGE:
        began_s = time.perf_counter()
        found = explore(instance, Rules())
        total += found.states
        verdict = f"BROKEN: {found.broken}" if found.broken else "all invariants hold"
        seconds = time.perf_counter() - began_s
        print(
            f"{found.states:>9,} states  {instance.name}: {verdict} ({seconds:.1f} s)", flush=True
        )
        for step in found.trace:
            print(f"             {step}")
        wrong += bool(found.broken)
    print(f"{total:>9,} states explored in all\n")
    for rule, meaning in LEFT_OUT.items():
        example = counterexample(rule)
        if example is None:
            print(f"without {meaning}: NO COUNTEREXAMPLE")
            wrong += 1
            continue
        instance, found = example
        print(f"without {meaning}\n  breaks '{found.broken}' ({instance.name}):")
        for number, step in enumerate(found.trace, start=1):
            print(f"  {number:>3}. {step}")
        if found.last is not None:
            old, new = found.last.stores
            print(f"       the old store has {old}, the new {new}, the truth is {found.last.truth}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
