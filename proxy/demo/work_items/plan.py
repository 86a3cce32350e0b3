"""Who writes which work items during a run; clients and judge derive the same from the seed."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.demo.work_items.corpus import Corpus
from proxy.demo.work_items.items import Item
from proxy.demo.work_items.traps import ODD_RELEASE
from proxy.model import Key

_OWNED_SHARE = 0.3
_HOT_KEYS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The keys of a run.

    Attributes:
        owned: one list of loaded items a writer; nobody else writes those.
        fresh: one list of new items a writer, to be inserted.
        hot: keys that several writers fight for.
        quiet: loaded items that nobody writes: readers know what they hold.
    """

    owned: Sequence[Sequence[Item]]
    fresh: Sequence[Sequence[Item]]
    hot: Sequence[Key]
    quiet: Sequence[Item]


def make_plan(corpus: Corpus, *, seed: int, writers: int) -> Plan:
    """Deal the corpus out to the writers; the odd items stay quiet."""
    rng = random.Random(seed + 1)  # noqa: S311 - repeatable, not secret
    plain = [item for item in corpus.items if ODD_RELEASE not in item.texts("context_tags")]
    odd = [item for item in corpus.items if ODD_RELEASE in item.texts("context_tags")]
    rng.shuffle(plain)
    share = int(len(plain) * _OWNED_SHARE)
    live = list(corpus.live)
    rng.shuffle(live)
    return Plan(
        owned=[plain[:share][number::writers] for number in range(writers)],
        fresh=[live[number::writers] for number in range(writers)],
        hot=[(str(uuid.UUID(int=rng.getrandbits(128), version=4)),) for _ in range(_HOT_KEYS)],
        quiet=[*plain[share:], *odd],
    )


def by_release(items: Sequence[Item]) -> Mapping[str, Sequence[Item]]:
    """Return items by each of their context tags."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        for tag in item.texts("context_tags"):
            groups.setdefault(tag, []).append(item)
    return groups
