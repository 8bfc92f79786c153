"""Exit statuses, and how an error is told: one line that starts with ``reliq:``."""

from __future__ import annotations

import sys
from typing import Final

from reliq.cli import text
from reliq.errors import (
    AccessDenied,
    BodyError,
    ConfigError,
    EmbeddedUnavailable,
    OutcomeUnknown,
    PutManyError,
    ReliqError,
    Unavailable,
    UnsupportedServer,
)

FINE: Final = 0
ATTENTION: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
"""As shells count an end by SIGINT."""

_WRONG_USE: Final = (ConfigError, BodyError)
_NO_REDIS: Final = (Unavailable, AccessDenied, UnsupportedServer, OutcomeUnknown, EmbeddedUnavailable)


def status_of(error: ReliqError) -> int:
    """The exit status for an error; a put that failed in part counts as what stopped it."""
    if isinstance(error, PutManyError) and isinstance(error.__cause__, ReliqError):
        return status_of(error.__cause__)
    if isinstance(error, _WRONG_USE):
        return USAGE
    return UNREACHABLE if isinstance(error, _NO_REDIS) else ATTENTION


def complain(error: ReliqError) -> int:
    """Tell an error on stderr, with the code that ``reliq errors`` explains; returns its exit status."""
    said = str(error)
    say(said if isinstance(error, ConfigError) else f"{error.code}: {said}")
    return status_of(error)


def say(message: str) -> None:
    """One line on stderr."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    print(f"reliq: {text.safe(' | '.join(lines))}", file=sys.stderr)
