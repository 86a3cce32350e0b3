"""The one place where PostgreSQL's errors become Crossfade's."""

from __future__ import annotations

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from proxy.errors import Ambiguous, Corrupt, CrossfadeError, Rejected, Unavailable

_REFUSED_CLASSES = ("22", "23", "44", "54", "P0")
_SCHEMA_WRONG = frozenset({"42P01", "42703", "42883", "42704", "3F000", "42804"})
_NOT_APPLIED = frozenset({"40001", "40P01", "55P03", "25006", "42501"})
STALE_PLAN = frozenset({"0A000", "26000"})
"""A table changed under a prepared statement; only a new connection forgets it."""

_CHECK_HINT = "Compare the layout with the database: `crossfade plan` lists what is missing."


def is_refusal(error: psycopg.Error) -> bool:
    """True if the server (or the driver, before sending) says that the value does not fit."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.DataError | psycopg.ProgrammingError)
    return state[:2] in _REFUSED_CLASSES


def is_foreign_key(error: psycopg.Error) -> bool:
    """True if a reference to a parent or from a child stands in the way."""
    return error.sqlstate in ("23503", "23001")


def refusal_text(error: psycopg.Error) -> str:
    """Return one line that names what was refused."""
    diagnostic = error.diag
    text = diagnostic.message_primary or str(error)
    place = diagnostic.column_name or diagnostic.constraint_name
    return f"{text} ({place})" if place and place not in text else text


def first_line(error: object) -> str:
    """Return the first line of a message, without a full stop: libpq's advice follows it."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else ""


def translate(error: Exception, *, store: str, writing: bool, what: str = "") -> CrossfadeError:
    """Return the error that callers of a store know.

    Args:
        writing: a write had been sent, so that a lost answer may hide an applied write.
        what: names the collection, for messages.
    """
    about = f"The {store} store" + (f" ({what})" if what else "")
    if isinstance(error, TimeoutError):
        return _no_answer(f"{about} did not answer in time.", store, writing, timed_out=True)
    if isinstance(error, PoolTimeout | TooManyRequests | PoolClosed):
        return Unavailable(f"{about} has no free connection: {error}.", where=store)
    if isinstance(error, ValueError | OverflowError) or _is_unsendable(error):
        text = f"{about} cannot be asked with this value: {first_line(error)}."
        return Rejected(text, hint="PostgreSQL texts hold neither NUL nor lone surrogates.")
    if isinstance(error, psycopg.Error):
        return _translate_server(error, about, store, writing)
    return Unavailable(f"{about} failed: {error}.", where=store)


def _is_unsendable(error: Exception) -> bool:
    """True if a parameter is no text that the driver or the server can take."""
    if not isinstance(error, psycopg.DataError | psycopg.ProgrammingError):
        return False
    return error.sqlstate in (None, "22021")


def _translate_server(
    error: psycopg.Error, about: str, store: str, writing: bool
) -> CrossfadeError:
    state = error.sqlstate or ""
    text = first_line(refusal_text(error))
    if state == "57014":
        return _no_answer(f"{about} gave up: {text}.", store, writing, timed_out=True)
    if state in _SCHEMA_WRONG:
        return Corrupt(f"{about} does not match its layout: {text}.", hint=_CHECK_HINT)
    if state[:2] == "22" or (state[:2] == "XX" and not writing):
        return Corrupt(f"{about} holds a value that cannot be read: {text}.")
    if state in _NOT_APPLIED or (state and state[:2] not in ("08", "57", "XX")):
        return Unavailable(f"{about} could not do it: {text}.", where=store)
    return _no_answer(f"{about} lost the connection: {text}.", store, writing, timed_out=False)


def _no_answer(message: str, store: str, writing: bool, *, timed_out: bool) -> CrossfadeError:
    if writing:
        return Ambiguous(message, where=store, timed_out=timed_out)
    return Unavailable(message, where=store)
