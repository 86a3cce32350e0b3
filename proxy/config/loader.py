"""Loads a configuration: YAML, environment, preset, settings and schemas; every error at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path as FilePath

from pydantic import BaseModel, ValidationError

from proxy.config.checks import check_embedder, check_settings, check_stores, warn_settings
from proxy.config.problems import did_you_mean, from_pydantic
from proxy.config.schema import compile_schema
from proxy.config.settings import ListenSettings, Settings
from proxy.config.source import BYTES_MAX, Source, overlay, read
from proxy.errors import ConfigInvalid, Violation
from proxy.layouts import StoreSchema
from proxy.model import CollectionSpec

_SECRET_CHARACTERS_MIN = 4
"""A shorter value of a variable is a number or a switch, and would blot out ordinary words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole, valid configuration.

    Attributes:
        old, new: what each store adapter needs: the same specs but for the vector, which is the
            store's own, and its layouts.
        collections: the specs as clients see them.
        warnings: things that are allowed but deserve a look.
    """

    settings: Settings = field(repr=False)
    old: StoreSchema
    new: StoreSchema
    collections: Mapping[str, CollectionSpec]
    warnings: tuple[str, ...] = ()

    @property
    def models(self) -> frozenset[str]:
        """The models that make the vectors of a store, by name or path."""
        return frozenset(
            spec.vector.embedding.model
            for schema in (self.old, self.new)
            for spec in schema.collections.values()
            if spec.vector is not None and spec.vector.embedding is not None
        )


def load(path: FilePath | str, environment: Mapping[str, str] | None = None) -> Config:
    """Read the file and return the configuration.

    Raises:
        ConfigInvalid: with one violation, "file:line (path): expected ..., got ...", for each
            thing that is wrong. No secret is in it.
    """
    return load_text(_text_of(FilePath(path)), str(path), environment)


class Whereabouts(BaseModel):
    """Where the proxy of a migration listens: the part of a configuration that `locate` reads."""

    migration: str = ""
    listen: ListenSettings = ListenSettings()


def locate(path: FilePath | str, environment: Mapping[str, str] | None = None) -> Whereabouts:
    """Read from the file whose proxy listens where, and nothing else.

    Whoever commands a proxy from elsewhere needs none of the variables with the stores' secrets.

    Raises:
        ConfigInvalid: the file cannot be read, or what it says of this is wrong.
    """
    name = str(path)
    variables = os.environ if environment is None else environment
    source = read(_text_of(FilePath(path)), name, variables)
    if not isinstance(source.data, Mapping):
        raise _not_a_mapping(source, name)
    parts = tuple(f"({name}" for name in Whereabouts.model_fields)
    problems = [found for found in source.problems if any(part in found.where for part in parts)]
    if problems:
        raise _invalid(source, name, problems)
    given = {key: source.data.get(key) for key in Whereabouts.model_fields}
    try:
        return Whereabouts.model_validate({key: value for key, value in given.items() if value})
    except ValidationError as error:
        raise _invalid(source, name, from_pydantic(error, source, Whereabouts)) from error


def _text_of(file: FilePath) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(BYTES_MAX + 1)
        if len(raw) > BYTES_MAX:
            raise ConfigInvalid(f"cannot read {file}: it has more than {BYTES_MAX} bytes", ())
        return raw.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigInvalid(
            f"cannot read {file}: {error.strerror}. Name it with --config or CROSSFADE_CONFIG;"
            " `crossfade plan --example` prints one to start from.",
            (),
        ) from error
    except OSError as error:
        raise ConfigInvalid(f"cannot read {file}: {error.strerror or error}", ()) from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"cannot read {file}: it is not UTF-8 text", ()) from error


def load_text(text: str, name: str, environment: Mapping[str, str] | None = None) -> Config:
    """Like `load`, for a text; `name` is what messages call it."""
    variables = os.environ if environment is None else environment
    source = read(text, name, variables)
    if not isinstance(source.data, Mapping):
        raise _not_a_mapping(source, name)
    whole, preset_problems = _with_preset(source)
    settings, found = _settings(source.data, source)
    compiled = compile_schema(whole)
    problems = [*source.problems, *preset_problems, *found]
    problems.extend(() if preset_problems else compiled.problems)
    if settings is None or problems:
        raise _invalid(source, name, problems)
    clashes = (
        *check_stores(settings, compiled.old, compiled.new, source),
        *check_embedder(settings, compiled.old, compiled.new, source),
    )
    if clashes:
        raise _invalid(source, name, clashes)
    warnings = (*warn_settings(settings, source), *compiled.warnings)
    return Config(
        settings=settings,
        old=compiled.old,
        new=compiled.new,
        collections=compiled.collections,
        warnings=warnings,
    )


def _not_a_mapping(source: Source, name: str) -> ConfigInvalid:
    nothing = Violation(where=source.where(()), expected="a mapping of settings")
    return _invalid(source, name, source.problems or (nothing,))


def _invalid(source: Source, name: str, problems: Iterable[Violation]) -> ConfigInvalid:
    masked = (_masked(problem, source.filled_in) for problem in problems)
    unique = sorted(dict.fromkeys(masked), key=_line)
    things = "thing is" if len(unique) == 1 else "things are"
    return ConfigInvalid(f"{name}: {len(unique)} {things} wrong", tuple(unique))


def _masked(problem: Violation, secrets: Iterable[str]) -> Violation:
    """Take the values of variables out of a message, wherever it quotes them."""
    expected, got = problem.expected, problem.got
    for secret in secrets:
        if len(secret) >= _SECRET_CHARACTERS_MIN:
            expected, got = expected.replace(secret, "***"), got.replace(secret, "***")
    return replace(problem, expected=expected, got=got)


def _line(problem: Violation) -> tuple[str, int]:
    file, _, line = problem.where.partition(" (")[0].rpartition(":")
    return file, int(line) if line.isdigit() else 0


def _settings(
    data: Mapping[str, object], source: Source
) -> tuple[Settings | None, tuple[Violation, ...]]:
    plain = {key: value for key, value in data.items() if value is not None}
    if not isinstance(plain.get("collections", {}), Mapping):
        plain.pop("collections")  # compile_schema says what is wrong with it
    try:
        settings = Settings.model_validate(plain)
    except ValidationError as error:
        broken = [item["loc"] for item in error.errors(include_url=False)]
        rest = _stood_in(_without(plain, broken), broken)
        return None, from_pydantic(error, source, Settings) + _checked_rest(rest, source)
    return settings, check_settings(settings, source)


def _checked_rest(data: Mapping[str, object], source: Source) -> tuple[Violation, ...]:
    """Check what is left when the broken values are at their defaults, if that is possible."""
    try:
        return check_settings(Settings.model_validate(data), source)
    except ValidationError:
        return ()


def _without(data: Mapping[str, object], paths: list[tuple[int | str, ...]]) -> dict[str, object]:
    """Return a copy of a two-level mapping without the values at these paths."""
    result = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()
    }
    for path in paths:
        section = result.get(str(path[0])) if path else None
        if len(path) > 1 and isinstance(section, dict):
            section.pop(path[1], None)
        elif path:
            result.pop(str(path[0]), None)
    return result


_ENGINES_OWN = ("dsn", "uri", "namespace", "lance")
"""What a store has or has not by its engine."""


def _stood_in(
    data: dict[str, object], broken: Iterable[tuple[int | str, ...]]
) -> dict[str, object]:
    """Put something harmless where a required value is broken, so that the rest can be checked all
    the same, and what a section that is there leaves out is found, too."""
    wrong = frozenset(broken)
    for name in ("old", "new", "ledger"):
        given = data.get(name)
        section = dict(given) if isinstance(given, dict) else {}
        if not isinstance(given, dict) or (name, "engine") in wrong:
            # Of what engine it is nobody knows, so nothing of an engine's own can be wrong.
            section = {key: section[key] for key in section if key not in _ENGINES_OWN}
            section |= {"engine": "postgresql", "dsn": "dbname=stand-in"}
        elif (name, "dsn") in wrong:
            section["dsn"] = "dbname=stand-in"
        data[name] = section
    return {"migration": "stand-in", **data}


def _with_preset(source: Source) -> tuple[Source, tuple[Violation, ...]]:
    """Lay the user's collections over those of the preset, if one is named."""
    data = source.data
    name = data.get("preset") if isinstance(data, Mapping) else None
    if not name:
        return source, ()
    known = preset_names()
    if not isinstance(name, str) or name not in known:
        expected = f"a preset{did_you_mean(str(name), known)}"
        problem = Violation(where=source.where(("preset",)), expected=expected, got=f'"{name}"')
        return source, (problem,)
    return overlay(read(preset_text(name), f"preset {name}", {}), source), ()


def preset_names() -> list[str]:
    """Return the presets that ship."""
    folder = resources.files("proxy.config") / "presets"
    files = sorted(item.name for item in folder.iterdir())
    return [item.removesuffix(".yaml") for item in files if item.endswith(".yaml")]


def preset_text(name: str) -> str:
    """Return a preset as it ships, comments included.

    Raises:
        ConfigInvalid: there is no such preset.
    """
    if name not in preset_names():
        hint = did_you_mean(name, preset_names())
        raise ConfigInvalid(f'there is no preset "{name}"{hint}', ())
    return (resources.files("proxy.config") / "presets" / f"{name}.yaml").read_text("utf-8")


def example() -> str:
    """Return a commented configuration that loads (with OLD_DSN, NEW_DSN, LEDGER_DSN set)."""
    return (resources.files("proxy.config") / "example.yaml").read_text("utf-8")
