"""The models in the worker's memory: the one file that knows sentence-transformers and torch."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from proxy.embedding.frames import NoVector, Start

_CHARACTERS_A_TOKEN = 4
_CUT_CHARACTERS_A_TOKEN = 64


class Encoder:
    """One loaded model; `encode` may be called from several threads at once."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.dim = int(model.get_embedding_dimension())
        tokens_max = model.max_seq_length or math.inf
        self._tokens_max = None if math.isinf(tokens_max) else int(tokens_max)
        self.characters_max = _CHARACTERS_A_TOKEN * (self._tokens_max or 1 << 20)
        self._lock = threading.Lock()
        self._lock_tokeniser()

    def _lock_tokeniser(self) -> None:
        # A fast tokeniser fails ("Already borrowed") when two threads use it at once. It takes a
        # hundredth of the time of the model, which runs outside this lock.
        preprocess = self._model.preprocess

        def one_at_a_time(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return preprocess(*args, **kwargs)

        self._model.preprocess = one_at_a_time

    def encode(self, texts: Sequence[str], *, urgent: bool) -> bytes:
        """Return the packed vectors of the texts, in this order.

        Args:
            urgent: they are searches; a model with prompts of its own has another one for those.

        Raises:
            NoVector: a vector has the wrong shape, is not finite, or has no length.
        """
        encode = self._model.encode_query if urgent else self._model.encode_document
        made = encode(
            [self._cut(text) for text in texts],
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        vectors = np.asarray(made, dtype="<f4")
        if vectors.shape != (len(texts), self.dim):
            raise NoVector(
                f"the model gave shape {vectors.shape} instead of {(len(texts), self.dim)}"
            )
        lengths = np.linalg.norm(vectors, axis=1)
        if not np.isfinite(lengths).all():
            raise NoVector("the model gave a vector that is not finite")
        if not (np.abs(lengths - 1.0) < 1e-3).all():
            raise NoVector("the model gave a vector without a direction (length 0)")
        return bytes(vectors.tobytes())

    def _cut(self, text: str) -> str:
        """Return what the model reads of a very long text.

        Tokens of megabytes would take seconds and a hundred times the text's memory, to be thrown
        away but for the first. Words are tokenised one by one, so a beginning that fills the model
        stands for the whole.
        """
        if self._tokens_max is None or len(text) <= self._tokens_max * _CUT_CHARACTERS_A_TOKEN:
            return text
        beginning = text[: self._tokens_max * _CUT_CHARACTERS_A_TOKEN]
        end = max(beginning.rfind(" "), beginning.rfind("\n"))
        if end <= 0:
            return text
        with self._lock:
            tokens = self._model.tokenizer(beginning[:end], truncation=True)["input_ids"]
        return beginning[:end] if len(tokens) >= self._tokens_max else text


def load(start: Start, model: str) -> Encoder:
    """Load one model; whatever goes wrong is raised as the library's own error."""
    _leave_out("sklearn", "sklearn.metrics")
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(start.lane_threads)
    loaded = SentenceTransformer(
        start.locations[model],
        device="cpu",
        backend=start.backend,
        model_kwargs=_onnx_options(start.lane_threads) if start.backend == "onnx" else None,
        local_files_only=True,
        trust_remote_code=False,
    )
    encoder = Encoder(loaded)
    encoder.encode(["warm"], urgent=True)
    return encoder


def _onnx_options(threads: int) -> dict[str, Any]:
    """Return what an ONNX session is made with: as many threads as torch would use in a lane."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return {"provider": "CPUExecutionProvider", "session_options": options}


def _leave_out(*names: str) -> None:
    """Put empty modules in the place of some that are imported for nothing.

    sentence-transformers and transformers import scikit-learn for measures that no embedding
    needs; it takes a third of the start (1.6 s of 4.4 s) and 40 MB.
    """
    for name in names:
        if name not in sys.modules:
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None, is_package=True)
            module.__path__ = []
            module.__dict__["__getattr__"] = _absent
            sys.modules[name] = module


def _absent(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(f"{name} of scikit-learn is left out of the embedding worker")

    return refuse


def use_threads(threads: int) -> None:
    """Set how many threads a computation of the calling thread may use."""
    import torch

    torch.set_num_threads(threads)
