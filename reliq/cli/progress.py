"""How far a long command is: a bar on stderr, if that is a terminal, and never where the output is for programs.

With rich (the extra ``top``) it is drawn, without it is a line that changes. There is no thread for it: who works
says how far that is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from reliq.cli import text
from reliq.core.command import Flow
from reliq.errors import ReliqError

T = TypeVar("T")
#: Seconds that a command may take without one, and between two changes.
_PATIENCE: Final = 0.5
_BETWEEN: Final = 0.1


class Bar:
    """Nothing to be seen: stderr is no terminal. ``done``: how much is; ``total``: of how much, if known."""

    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.total, self.done = text.safe(what), total, 0

    def add(self, n: int = 1) -> None:
        """So many more are done."""
        self.to(self.done + n)

    def to(self, done: int) -> None:
        """So many are done in all."""
        self.done = done

    def now(self, what: str) -> None:
        """What is being done now."""

    def hide(self) -> None:
        """Make room for something that is printed; it comes again with the next change."""


class _Line(Bar):
    """A line that changes."""

    def __init__(self, what: str, total: int | None) -> None:
        super().__init__(what, total)
        self._next = time.monotonic() + _PATIENCE
        self._shown = ""

    def to(self, done: int) -> None:
        super().to(done)
        self._look()

    def now(self, what: str) -> None:
        self.what = text.safe(what)
        self._look()

    def _look(self) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _BETWEEN
            self._show()

    def _show(self) -> None:
        of = "" if self.total is None else f" of {max(self.total, self.done):,}"
        line = f"{self.what}: {self.done:,}{of}"
        print(f"\r{line:<{len(self._shown)}}", end="", file=sys.stderr, flush=True)
        self._shown = line

    def hide(self) -> None:
        if self._shown:
            print(f"\r{'':<{len(self._shown)}}\r", end="", file=sys.stderr, flush=True)
            self._shown = ""


class _Drawn(_Line):
    """The same, drawn by rich."""

    def __init__(self, what: str, total: int | None) -> None:
        super().__init__(what, total)
        self._drawn: Any = None

    def _show(self) -> None:
        if self._drawn is None:
            self._drawn = _drawing()
            self._drawn.start()
            self._drawn.add_task(self.what, total=self.total)
        total = None if self.total is None else max(self.total, self.done)
        self._drawn.update(0, description=self.what, completed=self.done, total=total, refresh=True)

    def hide(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None


def _drawing() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False, redirect_stdout=False,
        redirect_stderr=False,
    )  # fmt: skip


@contextmanager
def bar(args: argparse.Namespace, what: str, total: Callable[[], int] | None = None) -> Iterator[Bar]:
    """One for a command with these options; it is gone when that is through. ``total``: is asked only for one that
    is to be seen, and may fail with a ReliqError."""
    kind = _kind(args)
    made = kind(what, None if kind is Bar or total is None else _known(total))
    try:
        yield made
    finally:
        made.hide()


def _known(total: Callable[[], int]) -> int | None:
    try:
        return total()
    except ReliqError:  # which the work itself meets, and tells
        return None


def _kind(args: argparse.Namespace) -> type[Bar]:
    if args.json or not sys.stderr.isatty():
        return Bar
    try:
        import rich  # noqa: F401 - only whether it is there
    except ImportError:
        return _Line
    return _Drawn


def watched_g(flow: Flow[T], tell: Callable[[], object]) -> Flow[T]:
    """The same flow; ``tell`` is called after each of its steps."""
    try:
        step = next(flow)
        while True:
            try:
                reply = yield step
            except BaseException as error:  # noqa: BLE001 - it is for the flow
                step = flow.throw(error)
            else:
                step = flow.send(reply)
            tell()
    except StopIteration as end:
        found: T = end.value
        return found
