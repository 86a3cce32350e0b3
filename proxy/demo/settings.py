"""The configuration of the demo's proxies and reconciler, as a user would write it."""

from __future__ import annotations

from pathlib import Path

import yaml

from proxy.demo.scenario import Scenario, Stores


def write_settings(file: Path, stores: Stores, scenario: Scenario) -> None:
    """Write the configuration; each replica takes a free port of its own."""
    settings = {
        "version": 1,
        "migration": scenario.profile.migration,
        "preset": scenario.profile.preset,
        "listen": {"address": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "ledger": {"dsn": stores.ledger},
        "telemetry": {"log_level": "info"},
        **scenario.settings(stores),
    }
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
