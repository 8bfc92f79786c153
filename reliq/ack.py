"""The ack decorator: a handler that exists already, with a queue and a policy beside it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from reliq.core.retry import Retry
from reliq.errors import ConfigError
from reliq.lease import Leased

P = ParamSpec("P")
R = TypeVar("R")


class Handler(Generic[P, R]):
    """A function, its queue and its policy. Called with a body it is the plain function; called with a
    Lease it handles and settles that.

    ``queue``: where its messages come from. ``retry``: the policy (None: the queue's).
    ``timeout``: seconds that one attempt may take (None: as long as it likes).
    """

    def __init__(
        self, queue: Any, function: Callable[P, R], *, retry: Retry | None = None, timeout: float | None = None
    ) -> None:
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigError(f"ack(retry={retry!r}): pass a reliq.Retry(attempts=, wait=, stop=)")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise ConfigError(f"ack(timeout={timeout!r}): seconds above 0, or None")
        self.queue = queue
        self.retry: Retry = retry or queue.options.retry
        self.timeout = timeout
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self._takes_body, self._lease_name = _parameters(function)
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) == 1 and not kwargs and isinstance(args[0], Leased):
            handled: R = self._settling(args[0])
            return handled
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self.name} of {self.queue!r}>"

    @property
    def name(self) -> str:
        """module.function, for messages."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def call(self, lease: Leased) -> Any:
        """Hand the function the body, and the lease if it wants it. Settles nothing."""
        args = (lease.body,) if self._takes_body else ()
        kwargs = {self._lease_name: lease} if self._lease_name else {}
        function: Callable[..., Any] = self.function
        return function(*args, **kwargs)

    def _settling(self, lease: Any) -> Any:
        """Handle and settle one lease, in the manner of the function: awaitable if it is a coroutine one."""
        if self.is_async:
            return self._settling_async(lease)
        with lease:
            return self.call(lease)

    async def _settling_async(self, lease: Any) -> Any:
        async with lease:
            return await self.call(lease)


def lease_class(*, is_async: bool) -> Any:
    """The Lease of the shell that fits a handler: one with blocking verbs, or one with awaitable ones."""
    if is_async:
        from reliq.aio.lease import Lease as AsyncLease

        return AsyncLease
    from reliq.sync.lease import Lease

    return Lease


def decorate(queue: Any, function: Any = None, /, **options: Any) -> Any:
    """What ``queue.ack`` is: used bare, or with options."""
    if function is None:
        return lambda found: Handler(queue, found, **options)
    if not callable(function):
        raise ConfigError(f"ack({function!r}): use @q.ack, or @q.ack(retry=, timeout=) with names")
    return Handler(queue, function, **options)


def _parameters(function: Callable[..., Any]) -> tuple[bool, str | None]:
    """(does it take the body, the name of the parameter for the lease); TypeError if it wants more."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - a forward reference that cannot be resolved here is no error of ours
        hints = {}
    body, lease = False, None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            body = body or parameter.kind is parameter.VAR_POSITIONAL
        elif lease is None and (name == "lease" or _is_lease(hints.get(name, parameter.annotation))):
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(f"{function.__qualname__}: parameter {name!r} must be passable by name")
            lease = name
        elif not body and parameter.kind is not parameter.KEYWORD_ONLY:
            body = True
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"{function.__qualname__}{inspect.signature(function)}: a handler takes the body, and the lease "
                f"if it is named or annotated so; give parameter {name!r} a default"
            )
    return body, lease


def _is_lease(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.split(".")[-1] == "Lease"
    return isinstance(annotation, type) and issubclass(annotation, Leased)
