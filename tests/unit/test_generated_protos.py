"""The generated code is that of the protos beside it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

HOME = Path(__file__).parents[2] / "protos"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """Return protos/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_protos", HOME / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_code_is_current(generator: ModuleType) -> None:
    assert generator.stale() == []


def test_a_changed_missing_or_left_over_file_is_named(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a" / "v1"
    source.mkdir(parents=True)
    (source / "a.proto").write_text('syntax = "proto3"; package a.v1; message A { int32 x = 1; }')
    monkeypatch.setattr(generator, "HOME", tmp_path)
    assert "a/v1/a_pb2.py" in generator.stale()
    generator.generate(tmp_path)
    assert generator.stale() == []
    (source / "a_pb2.py").write_text("changed")
    (source / "old_pb2.py").write_text("left over")
    assert generator.stale() == ["a/v1/a_pb2.py", "a/v1/old_pb2.py"]


def test_every_call_of_the_protos_is_documented() -> None:
    for path in HOME.rglob("*.proto"):
        before = ""
        for line in path.read_text().splitlines():
            if line.strip().startswith("rpc "):
                assert before.strip().startswith("//"), f"{path.name}: {line}"
            before = line
