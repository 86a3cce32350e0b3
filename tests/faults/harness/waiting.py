"""Waiting for a condition, with a deadline and a message that says what never came."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

_POLL_S = 0.02
_POLL_S_MAX = 0.2


async def until(
    holds: Callable[[], bool | Awaitable[bool]], *, what: str, timeout_s: float = 30.0
) -> None:
    """Return soon after `holds()` is true; it is asked ever more rarely.

    Raises:
        AssertionError: it was not true within `timeout_s`; the message says `what`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            pause_s = _POLL_S
            while True:
                found = holds()
                if await found if inspect.isawaitable(found) else found:
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(_POLL_S_MAX, pause_s * 1.3)
    except TimeoutError as error:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from error
