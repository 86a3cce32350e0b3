"""The embedder with the real model in its own process."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from proxy.clock import SystemClock
from proxy.config.settings import EmbedderSettings
from proxy.embedding.build import build_embedder
from proxy.embedding.locate import BUNDLED, locate
from proxy.embedding.process import ProcessEmbedder
from proxy.errors import ConfigInvalid, Unavailable

pytest.importorskip("sentence_transformers", reason="needs crossfade[embedder]")

pytestmark = pytest.mark.asyncio(loop_scope="module")

_LONG = "the ledger orders writes and the reconciler repairs what differs. " * 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedder() -> AsyncIterator[ProcessEmbedder]:
    models = [BUNDLED, locate(BUNDLED)]
    embedder = ProcessEmbedder(EmbedderSettings(), models, SystemClock())
    await embedder.open()
    yield embedder
    await embedder.close()


@pytest.fixture(scope="module")
def reference() -> Any:
    """The same model in this process, as anybody else uses it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(locate(BUNDLED), device="cpu", local_files_only=True)


async def eventually(holds: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def worker_of(parent: int) -> int:
    """Return the worker process of a process that has one embedder."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = (
        int(child)
        for child in children
        if b"proxy.embedding.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    return found


def texts_of(seed: int, count: int) -> list[str]:
    """Return texts of all lengths, one past what the model reads, one empty, some equal."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    words = ["open", "close", "read", "write", "merge", "index", "vector", "ledger", "proxy"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(1, 60))) for _ in range(count)]
    odd = ["", texts[0], "Zürich, 東京 🚀", "a\x00b"]
    # Past what the model reads; past what is tokenised at all; past that, but of few words.
    return [*texts, *odd, _LONG, _LONG * 10, "word" + " " * 20_000 + "and another " * 300]


async def test_vectors_equal_those_of_sentence_transformers(
    embedder: ProcessEmbedder, reference: Any
) -> None:
    texts = texts_of(20260131, 60)
    expected = reference.encode(texts, batch_size=16, normalize_embeddings=True)
    # Callers of all sizes at once: the batches cut across them, and each keeps his order.
    cuts = [0, 1, 2, 30, 31, 50, len(texts)]
    parts = await asyncio.gather(
        *(
            embedder.documents(BUNDLED, texts[start:end], deadline_s=60)
            for start, end in pairwise(cuts)
        )
    )
    got = np.array([np.frombuffer(vector, "<f4") for part in parts for vector in part])
    assert got.shape == (len(texts), 384) == (len(texts), embedder.dim(BUNDLED))
    assert np.abs(got - expected).max() < 1e-6
    assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-6
    query = np.frombuffer(await embedder.query(BUNDLED, texts[0], deadline_s=30), "<f4")
    assert np.abs(query - expected[0]).max() < 1e-6


async def test_a_model_may_be_named_by_its_folder(embedder: ProcessEmbedder) -> None:
    folder = locate(BUNDLED)
    assert embedder.dim(folder) == 384
    named, placed = [
        np.frombuffer(await embedder.query(model, "which folder?", deadline_s=30), "<f4")
        for model in (BUNDLED, folder)
    ]
    assert np.abs(named - placed).max() < 1e-6


async def test_texts_of_many_callers_share_batches_and_the_loop_never_stalls(
    embedder: ProcessEmbedder,
) -> None:
    before = embedder.stats()
    late_s = 0.0

    async def heartbeat() -> None:
        nonlocal late_s
        while True:
            slept = time.perf_counter()
            await asyncio.sleep(0.005)
            late_s = max(late_s, time.perf_counter() - slept - 0.005)

    start = time.perf_counter()
    beating = asyncio.create_task(heartbeat())
    texts = [f"a record about topic {number}" for number in range(128)]
    await asyncio.gather(*(embedder.documents(BUNDLED, [text], deadline_s=60) for text in texts))
    beating.cancel()
    after = embedder.stats()
    assert after["texts"] - before["texts"] == 128
    assert after["batches"] - before["batches"] < 64
    assert late_s < max(0.1, (time.perf_counter() - start) / 3)


async def test_a_search_is_answered_while_documents_wait(embedder: ProcessEmbedder) -> None:
    documents = asyncio.create_task(
        embedder.documents(BUNDLED, [f"{number} {_LONG}" for number in range(16)], deadline_s=60)
    )
    await eventually(lambda: embedder.stats()["texts_computing"] > 0)
    vector = await embedder.query(BUNDLED, "how is a write repaired?", deadline_s=30)
    assert not documents.done()
    hits = embedder.stats()["query_cache_hits"]
    assert await embedder.query(BUNDLED, "how is a write repaired?", deadline_s=0.001) == vector
    assert embedder.stats()["query_cache_hits"] == hits + 1
    await documents


async def test_a_worker_killed_while_it_computes_fails_the_callers_and_comes_back(
    embedder: ProcessEmbedder,
) -> None:
    texts = [f"{number} {_LONG}" for number in range(100)]
    waiting = asyncio.create_task(embedder.documents(BUNDLED, texts, deadline_s=60))
    cancelled = asyncio.create_task(embedder.documents(BUNDLED, ["mine"], deadline_s=60))
    await eventually(lambda: embedder.stats()["texts_computing"] > 0)
    cancelled.cancel()
    with pytest.raises(Unavailable) as late:
        await embedder.documents(BUNDLED, [f"late {_LONG}"], deadline_s=0.01)
    assert late.value.where == "embedder"
    pid = worker_of(os.getpid())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="worker ended") as caught:
        await waiting
    assert caught.value.where == "embedder"
    assert embedder.stats()["texts_waiting"] == embedder.stats()["texts_computing"] == 0
    await eventually(lambda: embedder.stats()["up"] == 1)
    assert embedder.stats()["restarts"] == 1
    assert worker_of(os.getpid()) != pid
    assert len(await embedder.query(BUNDLED, "after the death", deadline_s=30)) == 4 * 384


async def test_a_stop_meant_for_the_whole_group_leaves_the_worker_to_its_proxy(
    embedder: ProcessEmbedder,
) -> None:
    pid = worker_of(os.getpid())
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    await embedder.query(BUNDLED, "still here", deadline_s=30)
    assert worker_of(os.getpid()) == pid


@pytest.mark.parametrize("model", ["no-such/model", "./no-such-folder"])
async def test_an_unknown_model_is_named_with_what_to_do(model: str) -> None:
    embedder = build_embedder(EmbedderSettings(), [model])
    with pytest.raises(ConfigInvalid, match=f"'{model}' cannot be loaded") as caught:
        await embedder.open()
    assert "folder of a sentence-transformers model" in str(caught.value)
    await embedder.close()


async def test_a_start_that_takes_too_long_is_given_up_and_leaves_nothing(
    embedder: ProcessEmbedder,
) -> None:
    known = worker_of(os.getpid())
    slow = build_embedder(EmbedderSettings(start_timeout_s=0.2), [BUNDLED])
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        await slow.open()
    await slow.close()
    assert worker_of(os.getpid()) == known  # and there is but one


async def test_no_worker_outlives_a_proxy_that_was_killed() -> None:
    code = (
        "import asyncio\n"
        "from proxy.config.settings import EmbedderSettings\n"
        "from proxy.embedding.build import build_embedder\n"
        "async def main():\n"
        f"    embedder = build_embedder(EmbedderSettings(), [{BUNDLED!r}])\n"
        "    await embedder.open()\n"
        "    print('open', flush=True)\n"
        f"    await embedder.documents({BUNDLED!r}, [{_LONG!r} + str(n) for n in range(2000)],\n"
        "        deadline_s=60)\n"
        "asyncio.run(main())\n"
    )
    proxy = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    assert proxy.stdout is not None
    async with asyncio.timeout(90):
        assert await proxy.stdout.readline() == b"open\n"
    worker = worker_of(proxy.pid)
    assert alive(worker)
    proxy.kill()
    await proxy.wait()
    await eventually(lambda: not alive(worker), within_s=10)
