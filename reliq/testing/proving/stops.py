"""Stops before the lines of a handler, by the tracing of Python, in the thread that runs it."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from reliq.errors import ConfigError
from reliq.testing.proving.schedules import Stop

#: Is told of each stop, and of the frame; what it raises is raised by that line.
Visit = Callable[[Stop, FrameType], None]


#: What does nothing, as a `try:` or a `break`: the next line is as good. And what is raised there may pass over
#: the
#: exit of a block around it, as Python knows that such a thing cannot raise.
_IDLE: Final = {
    number
    for name, number in dis.opmap.items()
    if name in ("NOP", "SETUP_FINALLY") or name.startswith(("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_ABSOLUTE"))
}
_ENTERS: Final = {"BEFORE_WITH", "BEFORE_ASYNC_WITH", "SETUP_WITH", "SETUP_ASYNC_WITH"}


class Tracer:
    """While it is entered, ``visit`` is called before each line of these ``codes``. A debugger's or coverage's own
    tracing of this thread waits for its end."""

    def __init__(self, codes: frozenset[CodeType], visit: Visit) -> None:
        self._codes, self._visit = codes, visit
        self._times: Counter[tuple[str, int]] = Counter()
        self._before: Any = None

    def __enter__(self) -> Tracer:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code in self._codes else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and frame.f_code.co_code[frame.f_lasti] not in _IDLE:
            place = frame.f_code.co_name, frame.f_lineno
            self._times[place] += 1
            leaves = frame.f_lasti > _entries(frame.f_code).get(frame.f_lineno, frame.f_lasti)
            self._visit(Stop(*place, self._times[place], leaves), frame)
        return self._line


@functools.cache
def _entries(code: CodeType) -> dict[int, int]:
    """Where in the code the ``with`` block of a line is entered: what comes later on that line leaves it."""
    found: dict[int, int] = {}
    lines = [(start, end, line) for start, end, line in code.co_lines() if line is not None]
    for each in dis.get_instructions(code):
        if each.opname in _ENTERS or (each.opname == "LOAD_SPECIAL" and "enter__" in each.argrepr):
            line = next((line for start, end, line in lines if start <= each.offset < end), 0)
            found.setdefault(line, each.offset)
    return found


def codes_of(functions: Iterable[Any]) -> frozenset[CodeType]:
    """Of these functions, and of all that is defined in them. ConfigError for one that is not written in
    Python."""
    found: set[CodeType] = set()
    for function in functions:
        waiting = [_code(function)]
        while waiting:
            code = waiting.pop()
            found.add(code)
            waiting += [const for const in code.co_consts if isinstance(const, CodeType)]
    return frozenset(found)


def _code(function: Any) -> CodeType:
    """Of what is innermost: without decorators, partials, methods and objects around it."""
    inner = function
    while True:
        if isinstance(inner, functools.partial):
            inner = inner.func
        elif hasattr(inner, "__wrapped__"):
            inner = inspect.unwrap(inner)
        elif inspect.ismethod(inner):
            inner = inner.__func__
        elif isinstance(getattr(inner, "__code__", None), CodeType):
            return inner.__code__  # type: ignore[no-any-return]
        elif inspect.ismethod(call := getattr(inner, "__call__", None)):  # noqa: B004 - not whether, but which
            inner = call
        else:
            raise ConfigError(f"prove({function!r:.80}): its lines cannot be seen, it is not written in Python")
