"""The configuration of the demo's proxies and reconciler, as a user would write it."""

from __future__ import annotations

from pathlib import Path

import yaml

from proxy.demo.embedded_pg import Databases
from proxy.demo.options import Pace


def write_settings(file: Path, dsns: Databases, pace: Pace) -> None:
    """Write the configuration; each replica takes a free port of its own."""
    settings = {
        "version": 1,
        "migration": "rust-docs",
        "preset": "doc-server",
        "listen": {"address": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "old": {"engine": "postgresql", "dsn": dsns.old},
        "new": {"engine": "postgresql", "dsn": dsns.new},
        "ledger": {"dsn": dsns.ledger},
        "shadow": {
            "gate_queries_min": pace.shadow_queries_min,
            "gate_latency_ratio_max": pace.latency_ratio_max,
        },
        "telemetry": {"log_level": "info"},
    }
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
