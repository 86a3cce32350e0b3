"""Log lines: one JSON object each, the request id, both logging worlds alike, no password."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from proxy.config.settings import TelemetrySettings
from proxy.telemetry.logs import REQUEST_ID, configure_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    levels = {
        name: logging.getLogger(name).level
        for name in ("openfeature", "asyncio", "grpc", "psycopg.pool")
    }
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_both_logging_worlds_give_the_same_shape_with_the_request_id(stream: io.StringIO) -> None:
    configure_logs(TelemetrySettings(), stream)
    token = REQUEST_ID.set("r-7")
    logging.getLogger("proxy.x").info("from %s", "stdlib", extra={"rows": 3})
    structlog.stdlib.get_logger("proxy.y").warning("from structlog", rows=3)
    REQUEST_ID.reset(token)
    logging.getLogger("proxy.x").info("outside")
    one, two, three = lines(stream)
    assert one["event"] == "from stdlib"
    assert (one["level"], two["level"]) == ("info", "warning")
    assert one["request_id"] == two["request_id"] == "r-7"
    assert one["rows"] == two["rows"] == 3
    assert one["logger"] == "proxy.x"
    assert one["timestamp"].endswith("Z")
    assert "request_id" not in three


def test_an_error_carries_its_stack_and_no_line_a_password(stream: io.StringIO) -> None:
    configure_logs(TelemetrySettings(), stream)
    log = logging.getLogger("proxy.x")
    try:
        raise ValueError("cannot reach postgresql://u:hunter2@h/d")
    except ValueError:
        log.exception("failed for password=hunter2 host=h")
    (line,) = lines(stream)
    assert "Traceback" in line["exception"]
    assert "hunter2" not in stream.getvalue()


def test_text_is_for_people_and_the_level_is_obeyed(stream: io.StringIO) -> None:
    configure_logs(TelemetrySettings(log_format="text", log_level="warning"), stream)
    logging.getLogger("proxy.x").info("not shown")
    logging.getLogger("proxy.x").warning("shown", extra={"rows": 3})
    logging.getLogger("openfeature").error("not shown either")
    (line,) = stream.getvalue().splitlines()
    assert "shown" in line
    assert "rows=3" in line
    assert not line.startswith("{")
