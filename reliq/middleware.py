"""Code of the user's around every put and every handler: what it is told, and which methods it may have.

An object of middleware has any of the methods ``before_put``, ``after_put``, ``handle``, ``ahandle`` (see the
protocols below), and costs nothing where it has none. The same in both shells; no I/O in here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Final, Protocol, runtime_checkable

from reliq import context
from reliq.core.message import Message
from reliq.core.verdict import describe
from reliq.errors import ConfigError
from reliq.logging import log


@dataclass(frozen=True)
class Put:
    """A put that is about to be made: of one body, or of those of a ``put_many``. ``options``: the arguments that
    its caller has named, such as ``delay`` or ``type``. ``dataclasses.replace`` makes another one of it."""

    queue: str
    bodies: Sequence[Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> Any:
        """The first one, or the only one."""
        return self.bodies[0]


@dataclass(frozen=True)
class Delivery:
    """A message that is about to be handed to a handler. ``handler``: its name, module.function; ``body``: as it
    was decoded; the rest as in ``reliq.Lease``. For a handler of batches, ``body`` is the list of all of them, and
    the rest is that of the first."""

    queue: str
    handler: str
    id: str
    type: str | None
    body: Any
    attempt: int
    deliveries: int
    fence: int
    trace_id: str
    headers: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class BeforePut(Protocol):
    """Is called before a put. What it returns is put instead; None: nothing else. What it raises, the caller of
    the put gets, and nothing is put. In ``reliq.aio`` it may be a coroutine function."""

    def before_put(self, put: Put, /) -> Any: ...


@runtime_checkable
class AfterPut(Protocol):
    """Is called when a put was accepted, with its receipts. What it raises is logged: the put has happened. In
    ``reliq.aio`` it may be a coroutine function."""

    def after_put(self, put: Put, receipts: Sequence[str], /) -> Any: ...


@runtime_checkable
class AroundHandler(Protocol):
    """Stands around handlers that are plain functions: ``call_next()`` calls what is further in, and in the end
    the handler. What it raises is the handler's failure; if it never calls on, the handler is passed over, and the
    message is done. A class whose ``handle`` is a coroutine function stands around coroutine handlers."""

    def handle(self, delivery: Delivery, call_next: Callable[[], Any], /) -> Any: ...


@runtime_checkable
class AroundCoroutine(Protocol):
    """The same around handlers that are coroutine functions, for a class that has both: ``await call_next()``."""

    async def ahandle(self, delivery: Delivery, call_next: Callable[[], Awaitable[Any]], /) -> Any: ...


Middleware = BeforePut | AfterPut | AroundHandler | AroundCoroutine
_METHODS: Final = ("before_put", "after_put", "handle", "ahandle")


def checked(said: Sequence[Middleware], where: str, *, may_await: bool) -> tuple[Middleware, ...]:
    """What a queue or a worker was given, from the outermost to the innermost; ConfigError says what is wrong.
    ``may_await``: whether puts are made in an event loop."""
    if isinstance(said, str) or not isinstance(said, Sequence):
        raise ConfigError(f"{where}(middleware={said!r:.120}): a list of objects, the outermost first")
    for each in said:
        if isinstance(each, type) or not isinstance(each, Middleware):
            raise ConfigError(
                f"{where}(middleware=): {each!r:.120} is an object with none of the methods "
                f"{', '.join(_METHODS)}; see reliq.middleware"
            )
        for name in () if may_await else _METHODS[:2]:
            if inspect.iscoroutinefunction(getattr(each, name, None)):
                raise ConfigError(
                    f"{where}(middleware=): {name} of {each!r:.120} is a coroutine function, and nothing awaits "
                    "it in a blocking put: make it a plain one, or use reliq.aio"
                )
    return tuple(said)


# -- puts -----------------------------------------------------------------------------------------------------


def befores(middleware: Sequence[Middleware]) -> list[BeforePut]:
    """Those that want to see a put first, in order."""
    return [each for each in middleware if isinstance(each, BeforePut)]


def afters(middleware: Sequence[Middleware]) -> list[AfterPut]:
    """Those that want to see what came of it, from the innermost on."""
    return [each for each in reversed(middleware) if isinstance(each, AfterPut)]


def instead(before: Put, said: object, hook: BeforePut) -> Put:
    """The put after a hook has returned this."""
    if said is None:
        return before
    if not isinstance(said, Put) or len(said.bodies) != len(before.bodies):
        raise ConfigError(
            f"before_put of {hook!r:.120} returned {said!r:.120}: let it return None, or a Put with as many "
            "bodies; nothing was put"
        )
    return said


def failed_after(hook: AfterPut, error: Exception) -> None:
    """Tell of a hook that has failed behind a put."""
    log.error("after_put of %.120r raised %s; the put has happened", hook, describe(error), exc_info=error)


# -- handlers -------------------------------------------------------------------------------------------------


def around(
    function: Callable[..., Any], middleware: Sequence[Middleware], name: str, *, is_async: bool
) -> Callable[..., Any]:
    """The function of a handler, with what stands around it, the first outermost; itself if nothing does."""
    for each in reversed(middleware):
        hook = _hook(each, name, is_async=is_async)
        if hook is not None:
            function = (_coroutine if is_async else _plain)(function, hook, name)
    return function


def _hook(each: Middleware, name: str, *, is_async: bool) -> Callable[..., Any] | None:
    """Its method for a handler of this kind."""
    own = getattr(each, "handle", None)
    waits = inspect.iscoroutinefunction(own)
    hook = (getattr(each, "ahandle", None) or (own if waits else None)) if is_async else (None if waits else own)
    if hook is None and (own is not None or hasattr(each, "ahandle")):
        lacks = "no coroutine function ahandle" if is_async else "no plain function handle"
        raise ConfigError(f"middleware {each!r:.120} cannot stand around handler {name}: it has {lacks}; add one")
    found: Callable[..., Any] | None = hook
    return found


def _plain(function: Callable[..., Any], hook: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(function)
    def handle(*args: Any, **kwargs: Any) -> Any:
        return hook(_delivery(name), partial(function, *args, **kwargs))

    return handle


def _coroutine(function: Callable[..., Any], hook: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(function)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        return await hook(_delivery(name), partial(function, *args, **kwargs))

    return handle


def _delivery(name: str) -> Delivery:
    """The message that is handled here."""
    message = context.handled()
    assert isinstance(message, Message), "a worker calls it with a message at hand"
    e = message.envelope
    return Delivery(
        message.queue, name, message.id, message.type, message.body, e.attempt, e.deliveries, e.fence,
        message.trace_id, message.headers,
    )  # fmt: skip
