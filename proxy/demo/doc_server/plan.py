"""Who writes which keys during a run; the clients and the judge derive the same from the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.demo.doc_server.corpus import Corpus, Document
from proxy.demo.doc_server.traps import ODD_CRATE, with_traps
from proxy.demo.oracle import Image, text_name, vector_name
from proxy.model import Key

_OWNED_SHARE = 0.3
_HOT_KEYS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The keys of a run.

    Attributes:
        owned: one list of loaded documents a writer; nobody else writes those.
        fresh: one list of new documents a writer, to be inserted.
        hot: keys that several writers fight for, through every replica.
        quiet: loaded documents that nobody writes: readers know what they hold.
        config_ids: how many crate_configs were loaded (their ids are 1 to this).
    """

    owned: Sequence[Sequence[Document]]
    fresh: Sequence[Sequence[Document]]
    hot: Sequence[Key]
    quiet: Sequence[Document]
    config_ids: int


def make_plan(corpus: Corpus, *, seed: int, writers: int) -> Plan:
    """Deal the corpus out to the writers."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    loaded = with_traps(corpus.documents)
    crates = sorted({document.crate for document in loaded})
    plain = [document for document in loaded if document.crate != ODD_CRATE]
    odd = [document for document in loaded if document.crate == ODD_CRATE]
    rng.shuffle(plain)
    share = int(len(plain) * _OWNED_SHARE)
    live = [document for document in corpus.live if document.crate in set(crates)]
    rng.shuffle(live)
    return Plan(
        owned=[plain[:share][number::writers] for number in range(writers)],
        fresh=[live[number::writers] for number in range(writers)],
        hot=[("rust", rng.choice(crates), f"live/hot-{n}.html") for n in range(_HOT_KEYS)],
        quiet=[*plain[share:], *odd],
        config_ids=len(crates) + 1,  # and one for the crate without documents
    )


def key_of(document: Document) -> Key:
    """Return the logical key of a document."""
    return ("rust", document.crate, document.path)


def image_of(document: Document) -> Image:
    """Return what is known of a document once it is written."""
    return {
        "content": text_name(document.content),
        "token_count": document.token_count,
        "vector": vector_name(document.vector),
    }
