"""Which message is being handled here: context variables that logs and nested puts read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import NamedTuple


class Current(NamedTuple):
    """The message that this thread or task is handling."""

    queue: str
    id: str
    attempt: int
    consumer: str
    trace_id: str


_current: ContextVar[Current | None] = ContextVar("reliq_current", default=None)
_trace_id: ContextVar[str | None] = ContextVar("reliq_trace_id", default=None)


def current() -> Current | None:
    """The message being handled in this context, or None."""
    return _current.get()


def trace_id() -> str | None:
    """The trace id that a put made now would carry: 32 hex digits, or None for a fresh one."""
    return _trace_id.get()


@contextmanager
def tracing(trace_id: str) -> Iterator[str]:
    """Let puts and log records inside carry this trace id (32 hex digits)."""
    token = _trace_id.set(trace_id)
    try:
        yield trace_id
    finally:
        _trace_id.reset(token)


class Tokens(NamedTuple):
    """What leave() needs to restore."""

    current: Token[Current | None]
    trace_id: Token[str | None]


def enter(message: Current) -> Tokens:
    """Start handling a message in this context; give the result to leave()."""
    return Tokens(_current.set(message), _trace_id.set(message.trace_id))


def leave(tokens: Tokens) -> None:
    """Stop handling a message in this context."""
    # A generator or task that is closed in another context has nothing to restore there: ValueError.
    with suppress(ValueError):
        _current.reset(tokens.current)
    with suppress(ValueError):
        _trace_id.reset(tokens.trace_id)
