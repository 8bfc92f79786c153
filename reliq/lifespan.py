"""The lifespan of a worker: what is set up in each of its processes before the first claim, and ended after the
last settle; and what it hands to handlers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from reliq.core.verdict import describe
from reliq.errors import ConfigError, StartFailed
from reliq.routing import Handling

Q = TypeVar("Q")
#: Makes a context manager, or an asynchronous one. What that yields is handed to handlers: a mapping, or an object
#: with attributes, or None.
Lifespan = Callable[[], Any]


def checked(lifespan: object) -> Lifespan | None:
    """What ``Worker(lifespan=)`` was given; a generator function will do."""
    if lifespan is None:
        return None
    if inspect.isgeneratorfunction(lifespan):
        return contextmanager(lifespan)
    if inspect.isasyncgenfunction(lifespan):
        return asynccontextmanager(lifespan)
    made = not isinstance(lifespan, type) and (hasattr(lifespan, "__enter__") or enters_async(lifespan))
    if made or not callable(lifespan):
        raise ConfigError(
            f"Worker(lifespan={lifespan!r:.120}): a function that makes a context manager, such as one that is "
            f"decorated with @contextmanager or @asynccontextmanager{'; not what it has made: no ()' * made}"
        )
    return lifespan


def lifespan_of(lifespan: object, handlers: Sequence[Any]) -> Lifespan | None:
    """That of a worker with these handlers. ConfigError if it is none, or if there is none and one needs it."""
    for handler in handlers if lifespan is None else ():
        if lacking := [name for name, needed in handler.needs.items() if needed]:
            raise ConfigError(
                f"Worker(): handler {handler.name} needs {lacking[0]!r}: give Worker(lifespan=) a function that "
                f"yields {{{lacking[0]!r}: …}}, or bind it: handler.bind({lacking[0]}=…)"
            )
    return checked(lifespan)


def made_by(lifespan: Lifespan) -> Any:
    """The context manager that it makes."""
    made = lifespan()
    if not hasattr(type(made), "__enter__") and not enters_async(made):
        raise TypeError(
            f"it made a {type(made).__name__}, which is no context manager: decorate it @contextmanager"
        )
    return made


def enters_async(manager: object) -> bool:
    """Whether it has to be entered in an event loop."""
    return hasattr(type(manager), "__aenter__")


@contextmanager
def starting() -> Iterator[None]:
    """What is raised in here keeps the worker from starting."""
    try:
        yield
    except StartFailed:
        raise
    except Exception as error:
        raise StartFailed(
            f"the lifespan of the worker raised {describe(error)} before it yielded, so nothing was claimed. See "
            "its traceback, correct that, and start the worker again"
        ) from error


def given(handlers: Sequence[tuple[Handling, Q]], value: object) -> list[tuple[Handling, Q]]:
    """The handlers with what the lifespan has yielded; StartFailed if something lacks that one of them needs."""
    return [(handling.each(lambda handler: _given(handler, value)), queue) for handling, queue in handlers]


def _given(handler: Any, value: object) -> Any:
    found = {}
    for name, needed in handler.needs.items():
        if isinstance(value, Mapping):
            if name in value:
                found[name] = value[name]
        elif value is not None and hasattr(value, name):
            found[name] = getattr(value, name)
        if needed and name not in found:
            raise StartFailed(
                f"handler {handler.name} needs {name!r}, and the lifespan of the worker yields {_words(value)}, "
                f"so nothing was claimed. Let it yield {{{name!r}: …}}"
            )
    return handler.bind(**found) if found else handler


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(map(repr, value)) or "nothing"
    return "nothing" if value is None else f"a {type(value).__name__} without that"


class Task:
    """An asynchronous lifespan, which is entered and left by one task of its own, as some have to be."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._leave = asyncio.Event()
        self._entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(), name="reliq-lifespan")

    async def _live(self) -> BaseException | None:
        """What leaving it raised. It is no exception of the task: a SystemExit would end the event loop."""
        try:
            async with self._manager as value:
                self._entered.set_result(value)
                await self._leave.wait()
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits for it
            if self._entered.done():
                return error
            self._entered.set_exception(error)
        return None

    @classmethod
    async def begin(cls, manager: AbstractAsyncContextManager[Any]) -> tuple[Task, Any]:
        """Enter it: (the task, what it yields). Who is cancelled meanwhile leaves nothing of it behind."""
        task = cls(manager)
        try:
            return task, await task._entered
        except asyncio.CancelledError:
            task._task.cancel()
            await asyncio.wait([task._task])
            raise

    async def end(self) -> None:
        """Leave it. Raises what that raises."""
        self._leave.set()
        if (error := await self._task) is not None:
            raise error
