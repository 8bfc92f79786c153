"""Who this process is, its clock, and the ids that nobody else makes."""

from __future__ import annotations

import os
import socket
import sys
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from reliq.core import envelope as env
from reliq.errors import ConfigError

if TYPE_CHECKING:
    from reliq.core.waiting import Caller


class Ids:
    """Fresh message ids, time-ordered (UUID version 7), 16 bytes each.

    73 bits are drawn at random whenever there is a new ms, or for many ids at once; from there they count up. So
    two of them never meet, whoever makes them, and those of one thread sort in the order of their making.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Count on from another number: a forked child must not from where its parent does."""
        self._ms, self._numbers = 0, count()

    def one(self) -> bytes:
        """The next one."""
        ms = time.time_ns() // 1_000_000
        if ms != self._ms:
            self._numbers, self._ms = count(self._first(ms)), ms
        return next(self._numbers).to_bytes(16, "big")

    def many(self, length: int) -> list[bytes]:
        """So many, in order."""
        first = self._first(time.time_ns() // 1_000_000)
        return [number.to_bytes(16, "big") for number in range(first, first + length)]

    @staticmethod
    def _first(ms: int) -> int:
        """With a zero on top of what counts, which never carries over into the fixed bits before it."""
        return int.from_bytes(env.uuid7(ms, os.urandom(10)), "big") & ~(1 << 61)


#: Those of this process.
IDS: Final = Ids()
_process = object()


def process() -> object:
    """What stands for this process: another object in a forked child. (To ask for the pid is a system call.)"""
    return _process


def _born() -> None:
    global _process
    _process = object()
    IDS.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_born)


def consumer_name() -> str:
    """A name that is never used again: host, process id and a random incarnation."""
    return f"{host_name()}-{os.getpid()}-{os.urandom(4).hex()}"


def host_name() -> str:
    """What the names of this host's consumers begin with."""
    return socket.gethostname().split(".")[0][:40] or "host"


def program() -> str:
    """How this program was called, without its folder."""
    called = sys.argv[0] if getattr(sys, "argv", None) else ""
    return env.storable(os.path.basename(called))[:80]


#: Linux has the first. The other one goes on through the sleep of a Mac, where time.monotonic() stands still.
_BOOTTIME: Any = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def clock() -> float:
    """Seconds that go on through suspend: leases are counted in it."""
    return time.clock_gettime(_BOOTTIME)


if _BOOTTIME is None:  # on Windows, whose time.monotonic() is one of that kind
    clock = time.monotonic


def caller(by: str = "", verb: str = "cancel") -> Caller:
    """Who does something to a message or a queue; ``by``: a word about that, instead of the program."""
    from reliq.core.waiting import Caller

    if not isinstance(by, str) or len(by) > 100 or not (by == "" or by.isprintable()):
        raise ConfigError(f"{verb}(by={by!r:.120}): who it is, a line of at most 100 characters")
    return Caller(f"{host_name()}:{os.getpid()}", env.storable(by.strip()) or program())
