"""The clients' own account of a run, read back from the file their process leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.demo.oracle import Expectation, expectations
from proxy.demo.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the live clients did and saw.

    Attributes:
        acknowledged: record writes that a proxy acknowledged.
        failed: requests that got an error; none is expected.
        wrong: answers that broke a promise; none is expected.
        problems: the first of both, as sentences.
        expected: what each key they wrote may hold.
    """

    acknowledged: int
    failed: int
    wrong: int
    problems: Sequence[str]
    samples: Sequence[Sample]
    expected: Sequence[Expectation]

    @property
    def searches(self) -> int:
        """Count searches."""
        return sum(item.search for item in self.samples)

    @property
    def reads(self) -> int:
        """Count reads that are not searches."""
        return sum(not item.write and not item.search for item in self.samples)


def read_account(file: Path) -> Account:
    """Read the file that `proxy.demo.clients` wrote."""
    account = json.loads(file.read_text(encoding="utf-8"))
    return Account(
        acknowledged=account["oracle"]["acknowledged"],
        failed=account["failed"],
        wrong=account["wrong"],
        problems=tuple(account["problems"]),
        samples=tuple(
            Sample(kind=kind, start_s=start_s, end_s=end_s, ok=ok)
            for kind, start_s, end_s, ok in account["samples"]
        ),
        expected=tuple(expectations(account["oracle"])),
    )
