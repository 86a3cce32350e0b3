"""What must never be printed, and how to print what is near it: connection strings."""

from __future__ import annotations

import re

_SECRET_NAMES = frozenset({"dsn", "password", "token", "secret"})
_URI_PASSWORD = re.compile(r"(?P<head>\w+://[^:/?#@\s]*):[^@/\s]*@")
_QUERY_PASSWORD = re.compile(r"(?P<head>[?&]password=)[^&\s]*")
_KEYWORD_PASSWORD = re.compile(r"(?P<head>\bpassword\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s]+)")


def is_secret(path: tuple[str | int, ...]) -> bool:
    """True if the value at this configuration path may hold a credential."""
    return bool(path) and (str(path[-1]) in _SECRET_NAMES or "storage_options" in path)


def redacted_dsn(dsn: str) -> str:
    """Return a libpq URI or keyword string with its password replaced by ***."""
    text = _URI_PASSWORD.sub(r"\g<head>:***@", dsn)
    text = _QUERY_PASSWORD.sub(r"\g<head>***", text)
    return text if "://" in text else _KEYWORD_PASSWORD.sub(r"\g<head>***", text)


def has_password(dsn: str) -> bool:
    """True if the connection string itself carries a password."""
    return redacted_dsn(dsn) != dsn
