"""Exit codes of every command, and which error means which."""

from __future__ import annotations

from enum import IntEnum

from proxy.errors import (
    Ambiguous,
    ConfigInvalid,
    CrossfadeError,
    Reason,
    Rejected,
    Unavailable,
)

EXIT_HELP = """\
Exit codes: 0 done, or the answer is yes; 1 the answer is no: a precondition failed, differences \
were found, a job failed; 2 wrong usage or configuration; 3 a store, the ledger or the proxy could \
not be reached; 130 interrupted."""


class ExitCode(IntEnum):
    """What a command tells the shell."""

    OK = 0
    NO = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130


_USAGE_REASONS = frozenset(
    {Reason.INVALID_ARGUMENT, Reason.OUT_OF_RANGE, Reason.UNIMPLEMENTED, Reason.NOT_FOUND}
)


def exit_code(error: CrossfadeError) -> ExitCode:
    """Return the code for an error that ended a command."""
    if isinstance(error, Unavailable | Ambiguous):
        return ExitCode.UNAVAILABLE
    if isinstance(error, ConfigInvalid):
        return ExitCode.USAGE
    if isinstance(error, Rejected) and error.reason in _USAGE_REASONS:
        return ExitCode.USAGE
    return ExitCode.NO
