"""What lies in deploy/: every file parses, refers to what exists, and names real metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli.main import app
from proxy.config.loader import load_text
from proxy.fronts.native.serve import LIVENESS
from proxy.telemetry.catalogue import CATALOGUE, Kind

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
YAML_FILES = sorted(path for path in DEPLOY.rglob("*.yaml"))
DSNS = {"OLD_DSN": "dbname=old", "NEW_DSN": "dbname=new", "LEDGER_DSN": "dbname=ledger"}
SERIES = {name: spec for spec in CATALOGUE for name in spec.series}
TARGET_LABELS = {"crossfade_migration", "instance", "job"}
_METRIC = re.compile(r"\bcrossfade_(?!migration\b)[a-z0-9_]+")
_SELECTOR = re.compile(r"\b(crossfade_[a-z0-9_]+)\{([^}]*)\}")
_BY = re.compile(r"\b(?:by|on|ignoring) \(([^)]*)\)")


def documents(path: Path) -> list[Any]:
    return [item for item in yaml.safe_load_all(path.read_text()) if item is not None]


def kubernetes() -> Iterator[Mapping[str, Any]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from documents(path)


def of_kind(kind: str) -> dict[str, Mapping[str, Any]]:
    return {item["metadata"]["name"]: item for item in kubernetes() if item["kind"] == kind}


def pods() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every pod template with its labels and spec."""
    for name, item in of_kind("Deployment").items():
        yield name, item["spec"]["template"]
    for name, item in of_kind("CronJob").items():
        yield name, item["spec"]["jobTemplate"]["spec"]["template"]


def expressions() -> list[str]:
    """Every PromQL expression of the alerts and the dashboard."""
    rules = documents(DEPLOY / "alerts" / "crossfade.rules.yaml")[0]
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    board = json.loads((DEPLOY / "dashboards" / "crossfade.json").read_text())
    found += [item["expr"] for panel in board["panels"] for item in panel.get("targets", [])]
    found += [item["expr"] for item in board["annotations"]["list"]]
    return [" ".join(item.split()) for item in found]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_yaml_file_parses_and_says_first_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert documents(path)


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_are_exported(expression: str) -> None:
    names = set(_METRIC.findall(expression))
    assert names
    assert names <= SERIES.keys()
    for name, labels in _SELECTOR.findall(expression):
        used = set(re.findall(r"([a-z_]+)\s*(?:=~|!=|!~|=)", labels))
        assert used <= {*SERIES[name].labels, "le"} | TARGET_LABELS
    known = {label for name in names for label in SERIES[name].labels} | {"le"} | TARGET_LABELS
    for labels in _BY.findall(expression):
        assert {label.strip() for label in labels.split(",")} <= known
    assert expression.count("(") == expression.count(")")
    for name in names:
        if SERIES[name].kind is Kind.COUNTER:
            assert re.search(rf"rate\({name}\b", expression), f"{name} is a counter: use rate()"


def test_every_metric_is_on_the_dashboard() -> None:
    board = (DEPLOY / "dashboards" / "crossfade.json").read_text()
    assert [spec.name for spec in CATALOGUE if not any(name in board for name in spec.series)] == []


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    rules = documents(DEPLOY / "alerts" / "crossfade.rules.yaml")[0]
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert alert["alert"].startswith("Crossfade")
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"].strip().endswith((".", "?", ")"))


def test_panels_of_the_dashboard_have_a_reason_and_do_not_overlap() -> None:
    board = json.loads((DEPLOY / "dashboards" / "crossfade.json").read_text())
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_the_configurations_that_are_mounted_load() -> None:
    config = load_text((DEPLOY / "crossfade.yaml").read_text(), "deploy/crossfade.yaml", DSNS)
    assert config.settings.listen.address == "0.0.0.0:50051"  # inside a container
    mounted = of_kind("ConfigMap")["crossfade"]["data"]["crossfade.yaml"]
    assert load_text(mounted, "config.yaml", DSNS).settings.preset == "doc-server"


def test_the_image_is_built_in_two_stages_and_runs_as_nobody_with_a_health_check() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert sum(line.startswith("FROM ") for line in lines) == 2
    last = lines[max(at for at, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001:10001" in last
    assert any(line.startswith("HEALTHCHECK") for line in last)
    assert 'ENTRYPOINT ["crossfade"]' in last
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    allowed = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split()
        if line[0] == "!"
    }
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert name in allowed


def test_compose_mounts_files_that_exist_and_publishes_on_loopback_only() -> None:
    services = documents(DEPLOY / "compose.yaml")[0]["services"]
    assert {"postgres", "proxy-1", "proxy-2", "reconciler", "prometheus", "grafana"} <= set(
        services
    )
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    commands = {group.callback.__name__ for group in app.registered_commands if group.callback}
    for name in ("proxy-1", "proxy-2", "reconciler"):
        assert services[name]["command"][0] in commands
        assert services[name]["read_only"]
        assert set(DSNS) <= set(services[name]["environment"])


def test_prometheus_scrapes_what_compose_starts() -> None:
    services = documents(DEPLOY / "compose.yaml")[0]["services"]
    jobs = documents(DEPLOY / "prometheus" / "prometheus.yaml")[0]["scrape_configs"]
    targets = [
        target for job in jobs for item in job["static_configs"] for target in item["targets"]
    ]
    for target in targets:
        assert target.partition(":")[0] in services
    assert "reconciler:9465" in targets
    assert "0.0.0.0:9465" in services["reconciler"]["command"]


def test_kubernetes_lists_every_file_and_selects_the_pods_it_means() -> None:
    folder = DEPLOY / "kubernetes"
    listed = set(documents(folder / "kustomization.yaml")[0]["resources"])
    there = {path.name for path in folder.glob("*.yaml")}
    assert there - listed == {"kustomization.yaml", "secret.example.yaml"}
    labels = {name: pod["metadata"]["labels"] for name, pod in pods()}
    for item in of_kind("Deployment").values():
        chosen = item["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= labels[item["metadata"]["name"]].items()
    proxy = labels["crossfade-proxy"]
    for service in of_kind("Service").values():
        assert service["spec"]["selector"].items() <= proxy.items()
    budget = of_kind("PodDisruptionBudget")["crossfade-proxy"]["spec"]
    assert budget["selector"]["matchLabels"].items() <= proxy.items()
    assert budget["minAvailable"] == 1


def test_the_proxy_has_two_replicas_with_grpc_probes() -> None:
    spec = of_kind("Deployment")["crossfade-proxy"]["spec"]
    assert spec["replicas"] == 2
    (container,) = spec["template"]["spec"]["containers"]
    ports = {port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] in ports
        told = container[probe]["grpc"].get("service", "")
        assert told == (LIVENESS if probe == "livenessProbe" else ""), probe
    assert {item["metadata"]["name"] for item in kubernetes() if item["kind"] == "CronJob"} == {
        "crossfade-verify",
        "crossfade-repair",
    }


def test_every_pod_is_locked_down_and_runs_a_command_that_exists() -> None:
    commands = {group.callback.__name__ for group in app.registered_commands if group.callback}
    for name, pod in pods():
        spec = pod["spec"]
        (container,) = spec["containers"]
        assert container["args"][0] in commands, name
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert container["envFrom"] == [{"secretRef": {"name": "crossfade"}}]
    secret = of_kind("Secret")["crossfade"]
    assert set(secret["stringData"]) == set(DSNS)
    assert "change-me" in secret["stringData"]["OLD_DSN"]


def test_the_first_start_of_compose_makes_the_databases_that_are_asked_for() -> None:
    script = (DEPLOY / "postgres" / "init.sh").read_text()
    assert script.startswith("#!/bin/sh\nset -eu") or "set -eu" in script
    assert "for name in old new ledger" in script
    for name in re.findall(r"/schemas/(\S+\.sql)", script):
        assert (ROOT / "proxy" / "config" / "presets" / name).exists()
