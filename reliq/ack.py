"""The ack decorator: a handler that exists already, with a queue and a policy beside it."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial, update_wrapper
from types import CoroutineType, MappingProxyType
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from reliq import defaults
from reliq.core import routing
from reliq.core.retry import Retry
from reliq.errors import ConfigError, given
from reliq.lease import Leased
from reliq.needs import is_marked

P = ParamSpec("P")
R = TypeVar("R")


class Handler(Generic[P, R]):
    """A function, its queue and its policy. Called with a body it is the plain function; called with a
    Lease it handles and settles that (a failure is logged, settled, and returns None).

    ``queue``: where its messages come from. ``retry``: the policy (None: the queue's).
    ``timeout``: seconds that a Worker gives one attempt (None: as long as it likes). ``expected``: after so many a
    Worker says once where the handler is, and lets it go on; ``inf``: never. ``type``: of which messages
    (None: of all for which the worker has no other handler). ``batch``: it gets a list, of so many at the most
    (None: one at a time), which waits ``wait`` seconds for more.
    """

    def __init__(
        self,
        queue: Any,
        function: Callable[P, R],
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        expected: float | None = None,
        type: str | None = None,
        batch: int | None = None,
        wait: float = 0.0,
    ) -> None:
        if not callable(function):
            raise ConfigError(f"ack({function!r}): use @q.ack, or @q.ack(retry=, timeout=) with names")
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigError(f"ack(retry={retry!r}): pass a reliq.Retry(attempts=, wait=, stop=)")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise ConfigError(f"ack(timeout={given(timeout)}): seconds above 0, or None")
        if expected is not None and not (isinstance(expected, int | float) and expected > 0):
            raise ConfigError(f"ack(expected={given(expected)}): seconds above 0, or None")
        self.batch, self.wait = _batch(batch, wait)
        self._takes = takes = _Takes.of(function, "lease" if batch is None else "leases")
        #: What makes of a body what the function is annotated with (of batches: a list of); None: nothing does.
        self.fit = _fitter(takes.annotation if batch is None else _member(takes.annotation))
        #: Whether a handler of batches takes their leases.
        self.wants_leases = takes.lease is not None
        # Not its attributes: a function that tenacity has wrapped has one named `retry`.
        update_wrapper(self, function, updated=())
        self.queue = queue
        self.retry: Retry = retry or queue.options.retry
        self.timeout = timeout
        # A handler that has a timeout is told of when that cuts it off.
        self.expected = expected or (defaults.EXPECTED if timeout is None else math.inf)
        self.type = None if type is None else routing.checked(type, "ack")
        self.function = function
        self.is_async = _is_coroutine_function(function)
        #: The function itself if it takes the body alone: then a worker needs no lease to call it.
        self.plain: Callable[..., Any] | None = None
        #: What it needs besides, and was not given yet: by name, whether it cannot do without.
        self.needs: Mapping[str, bool] = takes.needs
        #: What it says of idempotency (see ``reliq.idempotent``): then it is always called with a lease.
        self.once: Any = None
        if (once := getattr(function, "__reliq_idempotent__", None)) is not None:
            once.on(self)
        self._unlock()
        #: What counts the round trips for it, in a worker that counts.
        self.watch: Any = None

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def __call__(self, lease: Leased, /) -> R | None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Leased):
            return self._settling(args[0])
        function: Callable[..., Any] = self.function
        return function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self.name} of {self.queue!r}>"

    @property
    def name(self) -> str:
        """module.function, for messages."""
        return f"{getattr(self.function, '__module__', '?')}.{_name(self.function)}"

    def bind(self, **dependencies: Any) -> Handler[..., R]:
        """The same with these of its dependencies (parameters annotated ``reliq.Dependency``) given to it, as by
        the lifespan of a worker: for tests, or where there is none. ConfigError for what it does not need."""
        for name in dependencies:
            if name not in self._takes.needs:
                known = ", ".join(map(repr, self._takes.needs)) or "none"
                raise ConfigError(f"{self.name}: {name!r} is no dependency of it; its dependencies are {known}")
        made = copy(self)
        made.function = update_wrapper(partial(self.function, **dependencies), self.function, updated=())
        made.needs = {name: needed for name, needed in self.needs.items() if name not in dependencies}
        made._unlock()
        return made

    def _unlock(self) -> None:
        """Let it be called with the body alone, if that is all that it takes."""
        bare = self.batch is None and self._takes.body and self._takes.lease is None
        bare = bare and self.once is None and not any(self.needs.values())
        self.plain = self._fitted() if bare else None

    @property
    def handlers(self) -> tuple[Handler[P, R], ...]:
        """Itself: of several that share a queue, there are more."""
        return (self,)

    def each(self, change: Callable[[Handler[..., Any]], Handler[..., Any]]) -> Handler[..., Any]:
        """What ``change`` makes of it."""
        return change(self)

    def call(self, lease: Any) -> Any:
        """Hand the function the body, and the lease if it wants it; of a batch, lists of them. Settles nothing.

        ``lease``: a Lease, or for a handler of batches also what has ``bodies`` and ``leases``.
        """
        if self.once is None:
            return self._call(lease)
        call = self.once.acall if self.is_async else self.once.call
        return call(self, lease, lambda: self._call(lease))

    def _call(self, lease: Any) -> Any:
        takes = self._takes
        single = isinstance(lease, Leased)
        if single:
            body = lease.body if self.fit is None else self.fit(lease.body)
            if self.batch is not None:
                lease, body = [lease], [body]
        elif not lease.bodies:
            return _nothing() if self.is_async else None
        else:
            lease, body = lease.leases, lease.bodies
        bodies = (body,) if takes.body else ()
        args = (lease, *bodies) if takes.lease_first else bodies
        kwargs = {takes.lease: lease} if takes.lease and not takes.lease_first else {}
        function: Callable[..., Any] = self.function
        result = function(*args, **kwargs)
        if not self.is_async:
            self.check(result)
        return result

    def bare(self, body: Any) -> Any:
        """Hand the function the body, for one that takes that alone (``plain``)."""
        assert self.plain is not None
        if (result := self.plain(body)) is not None and not self.is_async:
            self.check(result)
        return result

    def around(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]], watch: Any = None) -> Handler[P, R]:
        """The same, with what ``wrap`` makes of its function in the place of that."""
        made = copy(self)
        made.function = wrap(self.function)
        made.plain = None if self.plain is None else made._fitted()
        made.watch = watch or self.watch
        return made

    def _fitted(self) -> Callable[..., Any]:
        """The function, called with a body as it was read."""
        fit = self.fit
        function: Callable[..., Any] = self.function
        return function if fit is None else lambda body: function(fit(body))

    def check(self, result: Any) -> None:
        """TypeError if a plain function returned a coroutine: that would never run, yet the message be acked."""
        if isinstance(result, CoroutineType):
            result.close()
            raise TypeError(f"{self.name} is no coroutine function and returned a coroutine; make it `async def`")

    def _settling(self, lease: Any) -> Any:
        """Handle and settle one lease, in the manner of the function: awaitable if it is a coroutine one."""
        lease.follow(self.retry)
        if self.is_async:
            return self._settling_async(lease)
        with lease:
            result = self.call(lease)
            lease.answer(result)
            return result

    async def _settling_async(self, lease: Any) -> Any:
        async with lease:
            result = await self.call(lease)
            lease.answer(result)
            return result


def lease_class(*, is_async: bool) -> Any:
    """The Lease of the shell that fits a handler: one with blocking verbs, or one with awaitable ones."""
    if is_async:
        from reliq.aio.lease import Lease as AsyncLease

        return AsyncLease
    from reliq.sync.lease import Lease

    return Lease


def decorate(queue: Any, function: Any, **options: Any) -> Any:
    """What ``queue.ack`` is: used bare, or with options; its overloads tell the types."""
    if function is None:
        return lambda found: Handler(queue, found, **options)
    return Handler(queue, function, **options)


class _Takes(NamedTuple):
    """What a function wants: the body, the lease (under which name), and that one before the body; how the body is
    annotated; and its dependencies, by name: whether it cannot do without."""

    body: bool
    lease: str | None
    lease_first: bool
    annotation: Any = None
    needs: Mapping[str, bool] = MappingProxyType({})

    @classmethod
    def of(cls, function: Callable[..., Any], word: str) -> _Takes:
        """Read its signature, in which a lease (or a list of them) is called so; TypeError if it wants more, or
        does nothing when called."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{_name(function)}: a generator does nothing when it is called; return, don't yield")
        try:
            parameters = inspect.signature(function).parameters
        except ValueError:  # some builtins have none
            return cls(True, None, False)
        hints, single = _hints(function), word == "lease"
        body, lease, lease_first, annotation = False, None, False, None
        needs = _needs(function, parameters)
        for name, parameter in parameters.items():
            by_name_only = parameter.kind is parameter.KEYWORD_ONLY
            if parameter.kind is parameter.VAR_POSITIONAL:
                body, annotation = True, annotation if body else hints.get(name)
            elif parameter.kind is parameter.VAR_KEYWORD or name in needs:
                continue
            elif lease is None and (name == word or _is_lease(hints.get(name, parameter.annotation), single)):
                lease, lease_first = name, not body and not by_name_only
                if parameter.kind is parameter.POSITIONAL_ONLY and not lease_first:
                    raise TypeError(f"{_name(function)}: parameter {name!r} must be passable by name")
            elif not body and not by_name_only:
                body, annotation = True, hints.get(name, parameter.annotation)
                _check_order(function, list(parameters), name, needs)
            elif parameter.default is parameter.empty:
                raise TypeError(
                    f"{_name(function)}: a handler takes {'the body' if single else 'a list of bodies'}, and the "
                    f"{word} if a parameter is named or annotated so; give parameter {name!r} a default, or "
                    "annotate it as reliq.Dependency[...] if the lifespan of its worker has it"
                )
        return cls(body, lease, lease_first, annotation, needs)


def _needs(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, bool]:
    """Its dependencies, by name: whether it cannot do without."""
    found = {
        name: parameter.default is parameter.empty
        for name, parameter in parameters.items()
        if is_marked(function, name, parameter.annotation)
    }
    for name in found:
        if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"{_name(function)}: parameter {name!r} must be passable by name")
    return found


def _check_order(function: Callable[..., Any], names: list[str], body: str, needs: Mapping[str, bool]) -> None:
    """The body is handed over by position, and dependencies by name."""
    for name in names[: names.index(body)]:
        if name in needs:
            raise TypeError(f"{_name(function)}: dependency {name!r} has to stand behind the body ({body!r})")


def _hints(function: Any) -> dict[str, Any]:
    while isinstance(function, partial):
        function = function.func
    if not hasattr(function, "__annotations__"):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - a forward reference that cannot be resolved here is no error of ours
        from reliq.core.fitting import hints_of

        return hints_of(function, getattr(inspect.unwrap(function), "__globals__", {}))


def _batch(batch: Any, wait: Any) -> tuple[int | None, float]:
    """Both, checked."""
    most = defaults.SCRIPT_ELEMENTS
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= most):
        raise ConfigError(
            f"ack(batch={batch!r}): how many messages a handler gets at once, 1 to {most:,}, or None"
        )
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait < math.inf:
        raise ConfigError(f"ack(wait={given(wait)}): seconds that a batch waits for more, 0 or above")
    if wait and batch is None:
        raise ConfigError(f"ack(wait={wait!r}): it is for handlers of batches: ack(batch=100, wait={wait!r})")
    return batch, float(wait)


def _member(annotation: Any) -> Any:
    """Of what it is a list, as far as that is said."""
    members = typing.get_args(annotation)
    return members[0] if len(members) == 1 else None


async def _nothing() -> None:
    """For a handler for which nothing is left."""


def _fitter(annotation: Any) -> Callable[[Any], Any] | None:
    """What makes of a body what it is annotated as; None if that is nothing but what bodies are."""
    if annotation in (None, inspect.Parameter.empty, Any, dict, list, str, bytes) or isinstance(annotation, str):
        return None
    from reliq.core.fitting import fitter  # for those whose bodies are objects

    return fitter(annotation)


def _name(function: Any) -> str:
    """Partials and objects have no name of their own."""
    return getattr(function, "__qualname__", None) or repr(function)


def _is_coroutine_function(function: Any) -> bool:
    """Also of partials, and of objects with an async ``__call__``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - not whether it is callable, but how
    )


def _is_lease(annotation: Any, single: bool) -> bool:
    if not single:
        annotation = _member(annotation)
    if isinstance(annotation, str):
        return annotation.split(".")[-1] == "Lease"
    return isinstance(annotation, type) and issubclass(annotation, Leased)
