"""The README must be true: settings, commands, examples and the map are checked."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.main import get_command

from proxy.cli.main import app
from proxy.config.loader import load
from proxy.config.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.]+)` \| (.+?) \| .+ \|$", re.MULTILINE)
PACKAGES = ("proxy", "shadow", "reconcile", "protos")
SAME_AS_OLD = "new"  # the new store's settings are those of the old one


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, default as the README writes it) of every setting."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if prefix or name != SAME_AS_OLD:
                yield from settings_of(kind, f"{prefix}{name}.")
            continue
        yield f"{prefix}{name}", shown(field.get_default(call_default_factory=True))


def shown(default: object) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, Mapping):
        return "`{}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float) and default.is_integer():
        return f"`{int(default)}`"
    return f"`{default}`" if default != "" else '`""`'


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_configuration_reference_has_every_setting_with_its_default() -> None:
    written = dict(ROW.findall(section("Configuration reference")))
    assert written == dict(settings_of(Settings))


def test_the_shortest_configuration_loads(tmp_path: Path) -> None:
    file = tmp_path / "crossfade.yaml"
    file.write_text(blocks("yaml")[0])
    names = ("OLD_DSN", "NEW_DSN", "LEDGER_DSN")
    config = load(file, {name: f"postgresql://localhost/{name.lower()}" for name in names})
    assert config.settings.migration == "rust-docs"
    assert "documents" in config.old.collections


def test_the_configuration_of_work_items_loads(tmp_path: Path) -> None:
    file = tmp_path / "crossfade.yaml"
    file.write_text(blocks("yaml")[1])
    names = ("OLD_DSN", "LEDGER_DSN")
    config = load(file, {name: f"postgresql://localhost/{name.lower()}" for name in names})
    assert set(config.collections) == {"work_items"}


def test_the_example_of_collections_loads(tmp_path: Path) -> None:
    whole = {
        "version": 1,
        "migration": "mine",
        "old": {"engine": "memory"},
        "new": {"engine": "memory"},
        "ledger": {"engine": "memory"},
        **yaml.safe_load(blocks("yaml")[2]),
    }
    file = tmp_path / "crossfade.yaml"
    file.write_text(yaml.safe_dump(whole))
    assert set(load(file, {}).new.collections) == {"documents"}


def test_python_examples_compile_and_import_what_exists() -> None:
    import crossfade.client

    for block in blocks("python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "crossfade.client":
                for name in node.names:
                    assert hasattr(crossfade.client, name.name), name.name


def test_every_command_of_the_readme_exists_and_none_is_left_out() -> None:
    words = set(re.findall(r"`?crossfade ([a-z]+)\b", README))
    known = set(getattr(get_command(app), "commands", {}))
    assert known <= words
    for line in re.findall(r"^    crossfade .*$|`crossfade [a-z][^`]*`", README, re.MULTILINE):
        for command in re.findall(r"crossfade ([a-z]+)", line):
            assert command in known, line


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|^ {4})make ([a-z]+)\b", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def map_paths() -> list[str]:
    rows = re.findall(r"^\| (`.+?) \|", section("Map of files"), re.MULTILINE)
    return [path for row in rows for path in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("path", map_paths())
def test_every_path_of_the_map_is_there(path: str) -> None:
    found = REPOSITORY / path
    assert found.is_dir() if path.endswith("/") else found.is_file()


def sources() -> list[Path]:
    found = [file for name in PACKAGES for file in (REPOSITORY / name).rglob("*.py")]
    found += (REPOSITORY / "tests").rglob("*.py")
    return sorted(file for file in found if "_pb2" not in file.name)


def test_every_module_lies_under_a_path_of_the_map() -> None:
    paths = map_paths()
    lost = []
    for file in sources():
        relative = file.relative_to(REPOSITORY).as_posix()
        covered = any(
            relative.startswith(path) if path.endswith("/") else relative == path for path in paths
        )
        if not covered and file.name != "__init__.py":
            lost.append(relative)
    assert lost == []


def test_every_module_says_its_job_in_its_first_line() -> None:
    silent = [
        str(file.relative_to(REPOSITORY))
        for file in sources()
        if not file.read_text(encoding="utf-8").startswith('"""')
    ]
    assert silent == []
