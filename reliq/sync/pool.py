"""The idle connections to one server, kept for reuse: so many and no more, and none for longer than is good."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from weakref import WeakSet

from reliq import client
from reliq.settings import Settings
from reliq.sync.link import Link


class Pool:
    """At most ``pool_size`` connections; the one used last is used next, so that what is not needed gets idle.

    Threads share it without a lock as long as one is idle. Who finds none waits in turn, and is given one in
    person: who has just given it back does not get it again before. A giver first lays it down, then looks who
    waits, and a waiter first stands in line, then looks what lies there: they cannot miss each other.
    """

    def __init__(self, settings: Settings, label: str) -> None:
        self._settings, self._label = settings, label
        self._idle: deque[Link] = deque()
        self._links: WeakSet[Link] = (
            WeakSet()
        )  # all, so that one which an interrupted thread has lost does not count
        self._promised = 0  # to those who were told to make one
        self._waiting: deque[SimpleQueue[Link | None]] = deque()  # who gets None may make one
        self._lock = threading.RLock()
        self._look_at = time.monotonic() + settings.idle_check

    def warm(self, make: Callable[[], Link], key: str) -> None:
        """Connect as many as are to be kept; raises what is wrong with the first that fails."""
        try:
            for _ in range(self._settings.min_idle):
                link = make()
                self._links.add(link)
                link.key = key
                link.connect()
                self._idle.append(link)
        except BaseException:
            self.close()
            raise

    def take(self) -> Link | None:
        """An idle one, or None if there is room to ``add`` one, or else the next that is given back; raises
        PoolExhausted."""
        try:
            link = self._idle.pop()
        except IndexError:
            return self._wait()
        if link.used_at > self._look_at:
            self._let_go(link.used_at)
        return link

    def add(self, make: Callable[[], Link]) -> Link:
        """A new one, in the room that there is for it."""
        try:
            link = make()
            self._links.add(link)
            return link
        finally:
            self._take_back()

    def _wait(self) -> Link | None:
        box: SimpleQueue[Link | None] = SimpleQueue()
        self._waiting.append(box)
        self._hand_out()
        try:
            return box.get(timeout=self._settings.pool_wait)
        except BaseException as error:
            in_time = self._given_at_last(box)
            if isinstance(error, Empty):
                if in_time:
                    return box.get()
                raise client.exhausted(self._settings, self._label) from None
            if in_time:  # interrupted: it is the next one's
                self._pass_on(box.get())
            raise

    def _given_at_last(self, box: SimpleQueue[Link | None]) -> bool:
        """Leave the queue; True if it was our turn just then."""
        with self._lock:
            if box not in self._waiting:
                return True
            self._waiting.remove(box)
            return False

    def _hand_out(self) -> None:
        """Give what there is to those who wait."""
        with self._lock:
            while self._waiting:
                given = None
                try:
                    given = self._idle.pop()
                except IndexError:
                    if len(self._links) + self._promised >= self._settings.pool_size:
                        return
                    self._promised += 1
                self._waiting.popleft().put(given)

    def _pass_on(self, given: Link | None) -> None:
        if given is None:
            self._take_back()
        else:
            self.give_back(given)

    def _take_back(self) -> None:
        """The promise of room: by now there is a connection in it, or not."""
        with self._lock:
            self._promised -= 1
            self._hand_out()

    def give_back(self, link: Link) -> None:
        """It can be used by others."""
        self._idle.append(link)
        if self._waiting:
            self._hand_out()

    def _let_go(self, now: float) -> None:
        """Close those that have been idle for too long: it is looked for as often as ``idle_check`` says."""
        self._look_at = now + self._settings.idle_check
        try:
            while len(self._idle) >= max(1, self._settings.min_idle):  # with the one that is taken just now
                link = self._idle.popleft()
                if now - link.used_at < self._settings.idle_timeout:
                    self._idle.appendleft(link)
                    return
                self._end(link)
        except IndexError:  # other threads have taken them
            pass

    def _end(self, link: Link) -> None:
        link.close()
        self._links.discard(link)
        self._hand_out()

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            try:
                self._end(self._idle.pop())
            except IndexError:  # somebody else has taken it
                return
