"""Builds telemetry from the settings and takes it down; nothing global is set but the logs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry

from proxy.telemetry.endpoint import MetricsEndpoint
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rpc import RpcTelemetry
from proxy.telemetry.traces import Tracing, build_tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from proxy.config.settings import TelemetrySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Everything the wiring hands in.

    Attributes:
        rpc: a front's hook.
        metrics_address: where Prometheus finds the metrics, "" for nowhere.
    """

    tracing: Tracing
    metrics: Metrics
    rpc: RpcTelemetry
    provider: MeterProvider
    registry: CollectorRegistry
    endpoint: MetricsEndpoint | None

    @property
    def metrics_address(self) -> str:
        """The address that was bound."""
        return self.endpoint.address if self.endpoint is not None else ""

    async def close(self) -> None:
        """Stop the endpoint and export what is left, bounded in time; safe to call twice."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self.endpoint is not None:
            self.endpoint.close()
        self.tracing.close()


def build_telemetry(
    settings: TelemetrySettings,
    *,
    migration: str,
    metrics_address: str,
    exporter: SpanExporter | None = None,
) -> Telemetry:
    """Create the providers and start the endpoint.

    Args:
        metrics_address: host:port, port 0 for a free one, "" for no endpoint.
        exporter: where spans go instead of `settings.otlp_endpoint` (tests).

    Raises:
        Unavailable: the metrics address cannot be bound.
    """
    resource = {"service.name": settings.service_name, "crossfade.migration": migration}
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(
        registry=registry,
        scope_info_enabled=False,
        resource_attribute_filter=lambda name: name == "crossfade.migration",
    )
    provider = MeterProvider([reader], Resource(dict(resource)), shutdown_on_exit=False)
    metrics = Metrics(provider.get_meter("crossfade"))
    tracing = build_tracing(settings, resource=resource, exporter=exporter)
    endpoint = MetricsEndpoint(registry, metrics_address) if metrics_address else None
    return Telemetry(
        tracing=tracing,
        metrics=metrics,
        rpc=RpcTelemetry(tracing, metrics),
        provider=provider,
        registry=registry,
        endpoint=endpoint,
    )
