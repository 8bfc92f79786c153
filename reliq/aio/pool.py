"""The idle connections to one server, kept for reuse: so many and no more, and none for longer than is good."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from reliq import client
from reliq.aio.link import Link, time_limit
from reliq.settings import Settings


class Pool:
    """At most ``pool_size`` connections; the one used last is used next, so that what is not needed gets idle.

    Tasks of one event loop share it. Who finds none waits in turn, and is given one in person: who has just given
    it back does not get it again before. Redis answers one command at a time, and a loop reads one reply at a
    time: more would only queue elsewhere, while a thousand puts at once would open a thousand sockets.
    """

    def __init__(self, settings: Settings, label: str) -> None:
        self._settings, self._label = settings, label
        self._idle: deque[Link] = deque()
        self._room = settings.pool_size
        self._waiting: deque[asyncio.Future[Link | None]] = deque()  # who gets None may make one
        self._look_at = time.monotonic() + settings.idle_check

    async def warm(self, make: Callable[[], Awaitable[Link]], key: str) -> None:
        """Connect as many as are to be kept; raises what is wrong with the first that fails."""
        self._room -= self._settings.min_idle
        try:
            for _ in range(self._settings.min_idle):
                link = await make()
                link.key = key
                await link.connect()
                self._idle.append(link)
        except BaseException:
            await self.aclose()
            raise

    async def take(self) -> Link | None:
        """An idle one, or None if there is room to ``add`` one, or else the next that is given back; raises
        PoolExhausted."""
        if self._idle and self._idle[-1].used_at > self._look_at:
            await self._let_go(self._idle[-1].used_at)
        if self._idle:  # then nobody waits
            return self._idle.pop()
        return await self._wait()

    async def add(self, make: Callable[[], Awaitable[Link]]) -> Link:
        """A new one, in the room that there is for it."""
        try:
            return await make()
        except BaseException:
            self._made_room()
            raise

    async def _wait(self) -> Link | None:
        turn: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hand_out()
        try:
            async with time_limit(self._settings.pool_wait):
                return await turn
        except BaseException as error:
            in_time = turn.done() and not turn.cancelled()
            if isinstance(error, asyncio.TimeoutError):
                if in_time:
                    return turn.result()
                raise client.exhausted(self._settings, self._label) from None
            if in_time:  # interrupted: it is the next one's
                self._pass_on(turn.result())
            raise

    def _hand_out(self) -> None:
        """Give what there is to those who wait."""
        while self._waiting:
            if self._waiting[0].done():  # he waits no more
                self._waiting.popleft()
            elif self._idle:
                self._waiting.popleft().set_result(self._idle.pop())
            elif self._room:
                self._room -= 1
                self._waiting.popleft().set_result(None)
            else:
                return

    def _pass_on(self, given: Link | None) -> None:
        if given is None:
            self._made_room()
        else:
            self.give_back(given)

    def give_back(self, link: Link) -> None:
        """It can be used by others."""
        self._idle.append(link)
        if self._waiting:
            self._hand_out()

    async def _let_go(self, now: float) -> None:
        """Close those that have been idle for too long: it is looked for as often as ``idle_check`` says."""
        self._look_at = now + self._settings.idle_check
        while len(self._idle) > max(1, self._settings.min_idle):
            if now - self._idle[0].used_at < self._settings.idle_timeout:
                return
            try:
                await self._idle.popleft().aclose()
            finally:
                self._made_room()

    def _made_room(self) -> None:
        self._room += 1
        self._hand_out()

    async def aclose(self) -> None:
        """Close those that are idle."""
        while self._idle:
            try:
                await self._idle.pop().aclose()
            finally:
                self._made_room()
