"""Where handlers run: coroutine functions as tasks of the event loop, plain functions in threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from reliq.aio.station import Station
from reliq.core.command import Command
from reliq.core.message import Message, Settle
from reliq.core.pace import Pace
from reliq.ranking import Lines
from reliq.running import CoroutineExecutor


class TaskExecutor(CoroutineExecutor[Station]):
    """Up to ``concurrency`` coroutine handlers at once."""

    def __init__(self, pace: Pace, defer: Callable[[Message], None], waiting: Lines | deque[Message]) -> None:
        super().__init__(pace, defer, lambda station: station, waiting=waiting)

    def submit(self, messages: list[Message]) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(messages)
        self.start()

    serves_itself = False

    def nudge(self, now: float) -> bool:
        """Tasks need no waking."""
        return False

    def close(self) -> None:
        """Cancel what still runs."""
        self.cancel()


class ThreadSettler:
    """Lets a plain handler wait for its explicit settle, which a trip of the worker's loop makes."""

    def __init__(self, station: Station, loop: asyncio.AbstractEventLoop) -> None:
        self._station = station
        self._loop = loop
        self.state = station.state

    def settle(self, settle: Settle) -> bool:
        return asyncio.run_coroutine_threadsafe(self._station.settle(settle), self._loop).result()

    def insist(self, command: Command) -> Any:
        """Run a command that its handler has to wait for."""
        links = self._station.queue.links
        return asyncio.run_coroutine_threadsafe(links.insist(command), self._loop).result()
