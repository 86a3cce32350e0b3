"""What a call says besides its message: request id, targeting key, idempotency key, deadline."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.dataplane import RequestContext
from proxy.errors import Violation
from proxy.fronts.native.telemetry import Metadata
from proxy.validate import rejected

REQUEST_ID: Final = "x-request-id"
TARGETING_KEY: Final = "crossfade-targeting-key"
IDEMPOTENCY_KEY: Final = "crossfade-idempotency-key"
ATTRIBUTE_PREFIX: Final = "crossfade-context-"
SECONDARY_PENDING: Final = "crossfade-secondary-pending"

VALUE_CHARACTERS_MAX: Final = 128
ATTRIBUTES_MAX: Final = 16
_DEADLINE_S_MIN: Final = 0.001
"""A call that arrives late is cancelled by gRPC itself; until then nobody divides by zero."""
_ANSWER_S_MAX: Final = 0.1
_ANSWER_SHARE: Final = 0.1
"""What an answer needs to get back to the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a service's calls may take: without a deadline of the client, and at most."""

    default_s: float
    max_s: float

    def left_s(self, time_remaining_s: float | None) -> float:
        """Return the seconds a call may take, from what gRPC says is left (None: no deadline).

        A little less than is left, so that the reason reaches the client before it stops waiting.
        """
        if time_remaining_s is None:
            return self.default_s
        answered_s = time_remaining_s - min(_ANSWER_S_MAX, _ANSWER_SHARE * time_remaining_s)
        return max(_DEADLINE_S_MIN, min(answered_s, self.max_s))


DATA_DEADLINES: Final = Deadlines(default_s=10.0, max_s=60.0)


def new_request_id() -> str:
    """Return a name for a request that came without one."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHead:
    """A call's metadata, read once."""

    request_id: str
    targeting_key: str
    idempotency_key: str
    attributes: dict[str, str]


def read_head(metadata: Metadata, request_id: str) -> CallHead:
    """Return the head of a call whose id `given_id` told.

    Raises:
        Rejected: INVALID_ARGUMENT, a value is empty, too long or not visible ASCII.
    """
    found = {REQUEST_ID: request_id, TARGETING_KEY: "", IDEMPOTENCY_KEY: ""}
    attributes: dict[str, str] = {}
    problems: list[Violation] = []
    for name, value in metadata:
        if name in found:
            found[name] = _checked(name, value, problems)
        elif name.startswith(ATTRIBUTE_PREFIX):
            attributes[name[len(ATTRIBUTE_PREFIX) :]] = _checked(name, value, problems)
    if len(attributes) > ATTRIBUTES_MAX:
        where = f"metadata.{ATTRIBUTE_PREFIX}*"
        expected = f"at most {ATTRIBUTES_MAX}"
        problems.append(Violation(where=where, expected=expected, got=str(len(attributes))))
    if problems:
        raise rejected(problems)
    return CallHead(
        request_id=found[REQUEST_ID],
        targeting_key=found[TARGETING_KEY] or found[REQUEST_ID],
        idempotency_key=found[IDEMPOTENCY_KEY],
        attributes=attributes,
    )


def given_id(metadata: Metadata, fresh_id: str) -> str:
    """Return the caller's request id, or the fresh one if there is none or it is not acceptable."""
    for name, value in metadata:
        if name == REQUEST_ID and isinstance(value, str) and _is_visible(value):
            return value
    return fresh_id


def _is_visible(text: str) -> bool:
    return 1 <= len(text) <= VALUE_CHARACTERS_MAX and text.isascii() and text.isprintable()


def _checked(name: str, value: str | bytes, problems: list[Violation]) -> str:
    text = value if isinstance(value, str) else value.decode("latin-1")
    if _is_visible(text):
        return text
    expected = f"1 to {VALUE_CHARACTERS_MAX} visible ASCII characters"
    problems.append(
        Violation(where=f"metadata.{name}", expected=expected, got=f"{len(text)} characters")
    )
    return ""


def request_context(head: CallHead, deadline_s: float) -> RequestContext:
    """Return what the data plane is told."""
    return RequestContext(
        request_id=head.request_id,
        targeting_key=head.targeting_key,
        deadline_s=deadline_s,
        idempotency_key=head.idempotency_key,
        attributes=head.attributes,
    )


NewId = Callable[[], str]
