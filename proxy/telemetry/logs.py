"""Structured logs on standard error, JSON or text, each line with the request id it belongs to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from proxy.config.secrets import redacted_dsn
from proxy.telemetry.traces import current_ids

if TYPE_CHECKING:
    from proxy.config.settings import TelemetrySettings

REQUEST_ID: ContextVar[str] = ContextVar("crossfade_request_id", default="")
"""The request that the running task works for, "" for none."""

_QUIET: Mapping[str, int] = {
    # Every failed evaluation would be a stack trace in the log; they are counted instead.
    "openfeature": logging.CRITICAL,
    # asyncio and grpc tell of their internals at debug.
    "asyncio": logging.WARNING,
    "grpc": logging.WARNING,
    "psycopg.pool": logging.ERROR,
}
_Event = MutableMapping[str, Any]  # structlog's own type of an event


def _add_request(_logger: object, _method: str, event: _Event) -> _Event:
    request_id = REQUEST_ID.get()
    if request_id:
        event.setdefault("request_id", request_id)
    ids = current_ids()
    if ids is not None:
        event["trace_id"], event["span_id"] = ids
    return event


def _redact(_logger: object, _method: str, event: _Event) -> _Event:
    """Take passwords out of anything that looks like a connection string."""
    for name, value in event.items():
        if isinstance(value, str) and ("://" in value or "password" in value):
            event[name] = redacted_dsn(value)
    return event


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request,
        structlog.stdlib.ExtraAdder(),
    ]


def formatter(log_format: str) -> logging.Formatter:
    """Return the formatter that gives structlog's and the standard library's lines one shape."""
    last: structlog.typing.Processor
    if log_format == "json":
        last = structlog.processors.JSONRenderer(sort_keys=False, default=str)
        errors: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    else:
        last = structlog.dev.ConsoleRenderer(colors=False)
        errors = []
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared(),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *errors,
            _redact,
            last,
        ],
    )


def configure_logs(settings: TelemetrySettings, stream: TextIO | None = None) -> None:
    """Send every log line of the process to `stream` (standard error).

    Called once by a command that runs for long; a library or a test that embeds Crossfade keeps
    its own logging.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(settings.log_format))
    root = logging.getLogger()
    for known in list(root.handlers):
        root.removeHandler(known)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
