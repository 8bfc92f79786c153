"""Which message is being handled here: one context variable, which logs and nested puts read.

What is handled is set once per message and read seldom, so a message is put there as it is; who reads asks it for
words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import NamedTuple, Protocol


class Current(NamedTuple):
    """The message that this thread or task is handling."""

    queue: str
    id: str
    attempt: int
    consumer: str
    trace_id: str


class Handled(Protocol):
    """A message that can say the same of itself."""

    @property
    def queue(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def consumer(self) -> str: ...
    @property
    def trace_id(self) -> str: ...


class _Tracing(NamedTuple):
    """A trace id that was set, inside of whatever is handled; ``parent``: the span in it that puts belong to."""

    trace_id: str
    handled: Handled | None
    parent: str = ""


_innermost: ContextVar[Handled | _Tracing | None] = ContextVar("reliq_context", default=None)

#: Handle this message in this context from here on, or none (None); returns what ``leave`` takes.
enter = _innermost.set


def current() -> Current | None:
    """The message being handled in this context, or None."""
    found = handled()
    if found is None:
        return None
    return Current(found.queue, found.id, found.attempt, found.consumer, found.trace_id)


def trace_id() -> str | None:
    """The trace id that a put made now would carry: 32 hex digits, or None for a fresh one."""
    found = _innermost.get()
    return None if found is None else found.trace_id


def handled() -> Handled | None:
    """The same message as ``current`` tells of, as it is."""
    found = _innermost.get()
    return found.handled if isinstance(found, _Tracing) else found


def parent() -> str:
    """The span that a put made now would carry, or nothing."""
    found = _innermost.get()
    return found.parent if isinstance(found, _Tracing) else ""


@contextmanager
def tracing(trace_id: str, parent: str = "") -> Iterator[str]:
    """Let puts and log records inside carry this trace id (32 hex digits); ``parent``: and puts this span, as the
    id and the flags of a W3C traceparent (16 and 2 hex digits, with a dash between them)."""
    outer = _innermost.get()
    token = _innermost.set(_Tracing(trace_id, outer.handled if isinstance(outer, _Tracing) else outer, parent))
    try:
        yield trace_id
    finally:
        _innermost.reset(token)


def leave(token: Token[Handled | _Tracing | None]) -> None:
    """End what ``enter`` began."""
    # A generator or task that is closed in another context has nothing to restore there: ValueError.
    with suppress(ValueError):
        _innermost.reset(token)
