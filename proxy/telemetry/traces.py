"""Traces: one span for each call, parented by the client's traceparent, one for each store call."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import AttributeValue

    from proxy.config.settings import TelemetrySettings

_PROPAGATED = frozenset({"traceparent", "tracestate"})
_EXPORT_TIMEOUT_S = 5.0
_SHUTDOWN_S = 2.0
"""A collector that is away must not keep the proxy from stopping."""


class ActiveSpan(AbstractContextManager["ActiveSpan"]):
    """A span that is current while its `with` block runs; `fail` gives it an error status."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token: Token[Context] | None = None

    def __enter__(self) -> ActiveSpan:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def set(self, name: str, value: AttributeValue) -> None:
        """Add an attribute."""
        self._span.set_attribute(name, value)

    def fail(self, description: str) -> None:
        """Mark the span as failed."""
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, description[:200]))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._token is not None:
            otel_context.detach(self._token)
        self._span.end()


class Tracing:
    """Makes spans with one provider; without one it makes none, at next to no cost."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("crossfade") if provider is not None else None
        self._propagator = TraceContextTextMapPropagator()

    @property
    def on(self) -> bool:
        """True if spans are made at all."""
        return self._tracer is not None

    def root(
        self,
        name: str,
        metadata: Iterable[tuple[str, str | bytes]],
        attributes: Mapping[str, AttributeValue],
    ) -> ActiveSpan | None:
        """Begin a request's span under the remote parent in `metadata`, if there is one."""
        if self._tracer is None:
            return None
        carrier = {
            key: value for key, value in metadata if key in _PROPAGATED and isinstance(value, str)
        }
        parent = otel_context.Context()
        if carrier:
            parent = self._propagator.extract(carrier, context=parent)
        span = self._tracer.start_span(
            name, context=parent, kind=trace.SpanKind.SERVER, attributes=dict(attributes)
        )
        return ActiveSpan(span)

    def child(
        self, name: str, attributes: Mapping[str, AttributeValue], *, late: bool = False
    ) -> ActiveSpan | None:
        """Begin a span under the current one; None if there is none that is sampled.

        Args:
            late: also when the current one has ended: a write runs to its end although the
                client went away, and its calls belong to the same trace.
        """
        if self._tracer is None:
            return None
        parent = trace.get_current_span()
        if not (parent.get_span_context().trace_flags.sampled if late else parent.is_recording()):
            return None
        span = self._tracer.start_span(
            name, kind=trace.SpanKind.CLIENT, attributes=dict(attributes)
        )
        return ActiveSpan(span)

    def close(self) -> None:
        """Export what is left, for at most two seconds; blocks, so call it in a thread."""
        if self._provider is None:
            return
        # A daemon thread: an exporter that keeps retrying must not keep the process alive.
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(timeout=_SHUTDOWN_S)


def build_tracing(
    settings: TelemetrySettings,
    *,
    resource: Mapping[str, str],
    exporter: SpanExporter | None = None,
) -> Tracing:
    """Return tracing as configured; without an endpoint (or an `exporter`) it is off."""
    if exporter is None and not settings.otlp_endpoint:
        return Tracing(None)
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.trace_sample)),
        resource=Resource(dict(resource)),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter or _otlp(settings.otlp_endpoint)))
    return Tracing(provider)


def _otlp(endpoint: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        endpoint=endpoint,
        insecure=not endpoint.startswith("https://"),
        timeout=_EXPORT_TIMEOUT_S,
    )


def current_ids() -> tuple[str, str] | None:
    """Return the current (trace id, span id) as hexadecimal text, None outside a trace."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)
