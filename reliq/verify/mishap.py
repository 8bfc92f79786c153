"""What can happen to a command on its way, made at our own end of the socket, so that nobody else is disturbed.

The connections of a queue are put behind ``Mishaps``, which lets the reply of a chosen command be lost after Redis
has run it, or lets Redis not know a script. It works for every kind of URL, because nothing stands in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import redis

from reliq.core.keys import Keys
from reliq.core.scripts import Script
from reliq.settings import Settings
from reliq.sync.connection import Links
from reliq.sync.link import KINDS, Link

#: A digest that no server knows.
_UNKNOWN: Final = b"f" * 40


class Mishap:
    """One thing that is to happen to the next commands that carry these words; ``hits`` says how often it has."""

    def __init__(self, words: tuple[bytes, ...], times: int, sha: bytes = b"") -> None:
        self.words, self.left, self.sha = words, times, sha
        self.hits = 0

    def spoil(self, data: bytes) -> bytes:
        """The command as it is sent."""
        return data.replace(self.sha, _UNKNOWN) if self.sha else data

    @property
    def loses_reply(self) -> bool:
        """Whether the socket is closed before the reply is read."""
        return not self.sha


class Mishaps:
    """What is planned for the connections of one queue. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[Mishap] = []

    def lose_reply(self, of: Script | str, times: int = 1) -> Mishap:
        """Redis runs the next such commands, and nobody gets the reply."""
        words = (of.encode(),) if isinstance(of, str) else (of.sha.encode(), of.source.encode())
        return self._plan(Mishap(words, times))

    def forget(self, script: Script) -> Mishap:
        """The next call finds that Redis does not know the script (NOSCRIPT), as after a restart."""
        sha = script.sha.encode()
        return self._plan(Mishap((sha,), 1, sha))

    def _plan(self, mishap: Mishap) -> Mishap:
        with self._lock:
            self._planned.append(mishap)
        return mishap

    def clear(self) -> None:
        """From here on all goes well."""
        with self._lock:
            self._planned.clear()

    def take(self, data: bytes) -> Mishap | None:
        """What happens to this command."""
        with self._lock:
            for mishap in self._planned:
                if mishap.left and any(word in data for word in mishap.words):
                    mishap.left -= 1
                    mishap.hits += 1
                    return mishap
        return None


class Mishandled:
    """A redis-py connection to which the planned things happen."""

    def __init__(self, kind: Callable[..., Any], mishaps: Mishaps, **options: Any) -> None:
        self._real = kind(**options)
        self._mishaps = mishaps
        self._now: Mishap | None = None
        self._patience = float(options["socket_timeout"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send_packed_command(self, command: Any, **how: Any) -> None:
        data = command if isinstance(command, bytes) else b"".join(command)
        self._now = self._mishaps.take(data)
        self._real.send_packed_command([self._now.spoil(data) if self._now else data], **how)

    def read_response(self, *args: Any, **how: Any) -> Any:
        if self._now is None or not self._now.loses_reply:
            return self._real.read_response(*args, **how)
        self._now = None
        self._real.can_read(self._patience)  # once it has answered, it has run it
        self._real.disconnect()
        raise redis.exceptions.ConnectionError("reliq verify closed the socket before it read the reply")


class MishandledLinks(Links):
    """The connections of a queue, behind ``mishaps``. ``made``: all that there ever were."""

    def __init__(self, mishaps: Mishaps, find: Callable[[], Settings], *, keys: Keys) -> None:
        super().__init__(find, keys=keys)
        self.made: list[Link] = []
        self._kinds = {name: partial(Mishandled, kind, mishaps) for name, kind in KINDS.items()}

    def new(self, *, read_timeout: float | None = None, name: str = "reliq") -> Link:
        """A connection of its own for the caller, who closes it."""
        link = super().new(read_timeout=read_timeout, name=name)
        link.kinds = self._kinds
        self.made.append(link)
        return link
