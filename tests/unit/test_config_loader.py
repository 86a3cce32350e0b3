"""The configuration loader: every error at once, with file and line, and no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.loader import Config, example, load, load_text, preset_names, preset_text
from proxy.config.secrets import has_password, redacted_dsn
from proxy.errors import ConfigInvalid

MINIMAL = """\
migration: docs
preset: doc-server
old: {engine: postgresql, dsn: "host=a dbname=old"}
new: {engine: postgresql, dsn: "host=a dbname=new"}
ledger: {dsn: "host=a dbname=ledger"}
"""


def refused(text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load_text(text, "c.yaml", environment or {})
    return [str(violation) for violation in caught.value.violations]


def loaded(text: str, environment: dict[str, str] | None = None) -> Config:
    return load_text(text, "c.yaml", environment or {})


def test_a_minimal_configuration_has_the_documented_defaults() -> None:
    config = loaded(MINIMAL)
    assert config.settings.listen.address == "127.0.0.1:50051"
    assert config.settings.writes.ack == "both"
    assert config.settings.shadow.sample == 1.0
    assert set(config.old.collections) == {
        "sources",
        "documents",
        "crate_configs",
        "population_jobs",
    }
    assert config.warnings == ()


def test_the_example_loads_and_what_it_proposes_overrides_the_preset() -> None:
    variables = {"OLD_DSN": "dbname=old", "NEW_DSN": "dbname=new", "LEDGER_DSN": "dbname=ledger"}
    config = load_text(example(), "example.yaml", variables)
    index = config.new.layouts["documents"].index
    assert index is not None
    assert index.m != 24
    before, _, proposed = example().rpartition("# collections:\n")
    config = load_text(
        before + "collections:\n" + proposed.replace("#  ", " "), "example.yaml", variables
    )
    index = config.new.layouts["documents"].index
    assert index is not None
    assert (index.name, index.m) == ("documents_embedding_hnsw", 24)
    assert config.settings.old.dsn == "dbname=old"
    assert config.settings.telemetry.otlp_endpoint == ""


def test_the_example_serves_the_other_preset_and_the_other_engine_too() -> None:
    variables = {"OLD_DSN": "dbname=old", "LEDGER_DSN": "dbname=ledger"}
    new = 'new: {engine: postgresql, dsn: "${NEW_DSN}", pool_size_max: 8}\n'
    lance = "new: {engine: lancedb, uri: /var/lib/crossfade/data}\n"
    assert f"# {lance}" in example()
    text = example().replace(f"# {lance}", "").replace(new, lance)
    items = load_text(text.replace("preset: doc-server", "preset: work-items"), "e", variables)
    assert set(items.collections) == {"work_items"}
    no_index = "collections: {documents: {new: {index: null}}}\n"
    assert f"# {no_index}" in text
    documents = load_text(text.replace(f"# {no_index}", no_index), "e", variables)
    assert documents.new.layouts["documents"].index is None


def test_load_reads_a_file_and_names_it_in_errors(tmp_path: Path) -> None:
    file = tmp_path / "crossfade.yaml"
    file.write_text(MINIMAL)
    assert load(file, {}).settings.migration == "docs"
    file.write_text(MINIMAL + "listn: {}\n")
    with pytest.raises(
        ConfigInvalid, match=r"crossfade\.yaml:6 \(listn\).*did you mean \"listen\""
    ):
        load(file, {})


def test_a_missing_or_binary_or_oversized_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="No such file"):
        load(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        load(binary)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigInvalid, match="more than"):
        load(large)


def test_what_is_left_out_is_told_beside_other_errors_and_nothing_twice() -> None:
    beside = (
        'version: 2\nmigration: docs\npreset: doc-server\nold: {engine: postgresql, dsn: "${NO}"}\n'
    )
    text = "\n".join(refused(beside + "new: {engine: postgresql}\nledger: {dsn: 5}\n"))
    assert text.count("c.yaml:4") == text.count("c.yaml:5") == text.count("c.yaml:6") == 1
    assert "c.yaml:5 (new.dsn): expected a connection string" in text
    sound = beside.replace("2", "1").replace("${NO}", "x")
    rest = 'new: {engine: lance, uri: /a}\nledger: {dsn: "dbname=l"}\n'
    (lance,) = refused(sound + rest)
    assert "c.yaml:5 (new.engine)" in lance


def test_every_error_is_reported_at_once_each_with_its_line() -> None:
    found = refused(
        """\
migration: Docs
prest: doc-server
old: {engine: postgres, dns: x}
new:
  engine: postgresql
  pool_size_min: abc
ledger: {engine: memory, engine: memory}
listen: {adress: "x"}
writes: {primary_deadline_s: 20}
reads: {deadline_s: "${NOT_SET}"}
collections:
  docs:
    key: [id, foo]
    fields:
      id: {type: txt}
"""
    )
    text = "\n".join(found)
    for expected in (
        "c.yaml:1 (migration): expected a text that matches pattern",
        'c.yaml:2 (prest): expected a known key (did you mean "preset"?)',
        "c.yaml:3 (old.engine): expected 'postgresql', 'lancedb' or 'memory', got 'postgres'",
        'c.yaml:3 (old.dns): expected a known key (did you mean "dsn"?)',
        "c.yaml:6 (new.pool_size_min): expected a whole number, got 'abc'",
        "c.yaml:7 (ledger.engine): expected each key once (first at c.yaml:7)",
        'c.yaml:8 (listen.adress): expected a known key (did you mean "address"?)',
        "c.yaml:10 (reads.deadline_s): expected an environment variable NOT_SET, got none",
        "c.yaml:15 (collections.docs.fields.id.type): expected 'text', 'int'",
        'c.yaml:12 (collections.docs.old): expected a value for "old", got nothing',
    ):
        assert expected in text
    assert found == sorted(found, key=lambda line: int(line.split(":")[1].split(" ")[0]))


def test_settings_that_contradict_each_other_are_found_beside_broken_ones() -> None:
    found = refused(
        MINIMAL
        + """\
writes: {primary_deadline_s: 20, hold_max_s: 1}
reads: {fallback: perhaps}
"""
    )
    text = "\n".join(found)
    assert "c.yaml:6 (writes.primary_deadline_s): expected less than ledger.lease_s (10)" in text
    assert "(switch.drain_timeout_s): expected less than writes.hold_max_s (1)" in text
    assert "c.yaml:7 (reads.fallback): expected true or false" in text


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("listen: {address: nowhere}", "(listen.address): expected host:port"),
        ("listen: {address: 'h:70000'}", "(listen.address): expected host:port"),
        ("flags: {provider: mymodule}", '(flags.provider): expected "package.module:factory"'),
        ("version: 2", "(version): expected 1, got 2"),
        ("shadow: {sample: 1.5}", "(shadow.sample): expected less than or equal to 1"),
        ("preset2: x", "(preset2): expected a known key"),
        ("writes: [1]", "(writes): expected"),
        ("collections: [1]", "(collections): expected"),
        ("reads: !!python/object/apply:os.system ['true']", "expected"),
        ("reads: {<<: {fallback: true}}", "expected no merge keys"),
        ("reads: {[1]: 2}", "expected a plain name as a key"),
    ],
)
def test_a_single_mistake_is_named(extra: str, expected: str) -> None:
    assert expected in "\n".join(refused(f"{MINIMAL}{extra}\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an empty file"),
        ("- a\n- b\n", "expected a mapping of settings"),
        ("a: [1\nb: 2\n", "c.yaml:2: expected valid YAML"),
        ("a: \x00", "expected valid YAML"),
        ("a: 1\n---\nb: 2\n", "expected valid YAML"),
        ("a: *nowhere\n", "expected valid YAML"),
        ("x: " + "[" * 3000, "c.yaml:1: expected"),
        ("x: " + "[" * 60 + "]" * 60, "24 deep"),
        ("a: &a [1, *a]\n", "24 deep"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{n}: &{n} [{','.join(['*' + p] * 10)}]\n"
                for p, n in zip("abcde", "bcdef", strict=True)
            ),
            "at most 50000 values",
        ),
    ],
)
def test_text_that_is_no_configuration_is_a_clear_error(text: str, expected: str) -> None:
    assert expected in "\n".join(refused(text))


def test_an_unknown_preset_is_refused_with_a_suggestion() -> None:
    found = refused(MINIMAL.replace("doc-server", "doc-sever"))
    assert found == [
        'c.yaml:2 (preset): expected a preset (did you mean "doc-server"?), got "doc-sever"'
    ]
    with pytest.raises(ConfigInvalid, match="no preset"):
        preset_text("../settings")
    assert "doc-server" in preset_names()


def test_without_a_preset_collections_are_asked_for() -> None:
    found = refused(MINIMAL.replace("preset: doc-server\n", ""))
    assert found == [
        "c.yaml:1 (collections): expected a mapping of collections, or a preset, got none"
    ]


class TestEnvironment:
    def test_a_variable_its_default_and_a_dollar_are_filled_in(self) -> None:
        config = loaded(
            MINIMAL
            + 'flags: {flag_key: "${KEY:-none}-$$-${OTHER:-x}"}\nreads:\n  deadline_s: ${D:-7}\n',
            {"KEY": "k"},
        )
        assert config.settings.flags.flag_key == "k-$-x"
        assert config.settings.reads.deadline_s == 7.0

    def test_a_plain_value_becomes_what_it_looks_like_and_a_quoted_one_stays_text(self) -> None:
        variables = {"F": "false", "T": "12"}
        text = MINIMAL + 'reads:\n  fallback: ${F}\nflags: {flag_key: "${T}"}\n'
        config = loaded(text, variables)
        assert config.settings.reads.fallback is False
        assert config.settings.flags.flag_key == "12"

    def test_a_value_cannot_change_the_structure(self) -> None:
        config = loaded(
            MINIMAL.replace("migration: docs", "migration: docs\nflags:\n  flag_key: ${K}"),
            {"K": "a}\nreads: {fallback: false}\n#"},
        )
        assert config.settings.reads.fallback is True
        assert "reads:" in config.settings.flags.flag_key

    def test_unset_and_empty_variables_are_refused_by_name(self) -> None:
        text = MINIMAL + 'flags: {flag_key: "${A}${B}${1C}${"}\n'
        found = refused(text, {"B": ""})
        assert "c.yaml:6 (flags.flag_key): expected an environment variable A, got none" in found
        assert (
            "c.yaml:6 (flags.flag_key): expected an environment variable B, got an empty one"
            in found
        )
        assert sum("${NAME} or ${NAME:-default}" in line for line in found) == 2


class TestSecrets:
    def test_no_secret_is_in_an_error_or_a_repr(self) -> None:
        secret = "hunter2"
        text = MINIMAL.replace('"host=a dbname=old"', '["${PW}"]') + "reads:\n  deadline_s: ${PW}\n"
        found = "\n".join(refused(text, {"PW": secret}))
        assert secret not in found
        assert "a value that is not shown here" in found
        config = loaded(MINIMAL.replace("host=a", f"password={secret}"), {})
        assert secret not in repr(config)
        assert secret not in repr(config.settings)
        assert secret not in "\n".join(config.warnings)

    def test_a_password_in_the_file_is_warned_about_and_one_from_the_environment_is_not(
        self,
    ) -> None:
        text = MINIMAL.replace("host=a dbname=old", "postgresql://u:pw@h/d")
        assert "c.yaml:3 (old.dsn) holds a password in clear text" in loaded(text).warnings[0]
        assert (
            loaded(
                MINIMAL.replace('"host=a dbname=old"', '"${D}"'), {"D": "postgresql://u:p@h/d"}
            ).warnings
            == ()
        )

    @pytest.mark.parametrize(
        ("dsn", "shown"),
        [
            ("postgresql://u:p%40w@h:5432/d?x=1", "postgresql://u:***@h:5432/d?x=1"),
            ("postgresql://h/d?user=u&password=pw&a=b", "postgresql://h/d?user=u&password=***&a=b"),
            ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
            (r"host=h password = 'p \' w' dbname=d", "host=h password = *** dbname=d"),
            ("postgresql:///d?host=/run/x", "postgresql:///d?host=/run/x"),
            ("host=h dbname=d", "host=h dbname=d"),
        ],
    )
    def test_a_connection_string_is_shown_without_its_password(self, dsn: str, shown: str) -> None:
        assert redacted_dsn(dsn) == shown
        assert has_password(dsn) == ("***" in shown)


def test_old_and_new_may_not_share_a_table() -> None:
    text = MINIMAL.replace("dbname=new", "dbname=old")
    found = refused(text)
    assert [line.split("got ")[1] for line in found] == [
        'the table "crate_configs" on both sides',
        'the table "population_jobs" on both sides',
    ]


def test_a_memory_store_is_warned_about() -> None:
    config = loaded(
        MINIMAL.replace('engine: postgresql, dsn: "host=a dbname=old"', "engine: memory")
    )
    assert config.warnings == (
        "old is in memory: it is empty at every start, and seen by nobody else",
    )


def test_a_late_write_that_nobody_waits_for_is_warned_about() -> None:
    assert loaded(MINIMAL + "writes: {late_write_s: 5}\n").warnings == ()
    (line,) = loaded(MINIMAL + "writes: {late_write_s: 4.9}\n").warnings
    assert "(writes.late_write_s): a write that was given up may still land for 5 s" in line


def test_a_lancedb_version_that_goes_before_its_readers_do_is_warned_about() -> None:
    def warned(lance: str) -> list[str]:
        store = f"engine: lancedb, uri: /tmp/db, lance: {{{lance}}}"
        text = MINIMAL.replace('engine: postgresql, dsn: "host=a dbname=new"', store)
        config = loaded(text.replace("doc-server", "work-items"))
        return [line for line in config.warnings if "versions" in line]

    assert warned("keep_versions_s: 121") == []
    (line,) = warned("keep_versions_s: 60")
    assert "(new.lance.keep_versions_s)" in line
    assert "reconcile.deadline_s lets a read last as long" in line
