"""The same with a process of its own for each delivery: what is killed here is really killed (SIGKILL, no
`finally` runs, a database sees its connection go), and what is stopped stands still (SIGSTOP) until it may go
on.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from reliq.testing.proving.actor import Actor, die
from reliq.testing.proving.play import DEADLINE, Play, Stuck
from reliq.testing.proving.schedules import KILL, Stop

_PR_SET_PDEATHSIG: Final = 1
#: By this a child says what happens, as keywords.
Tell = Callable[..., object]
_POLL: Final = 0.001


class Failed(Exception):
    """What a handler raised in its process, in words."""


class Child:
    """A forked process, and what it tells, line by line. ``work`` is given the function by which it does so."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._rest = b""
        with warnings.catch_warnings():  # a thread of the test runner's, perhaps; it holds nothing that is needed
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _live(work, writer)
        os.close(writer)

    def wait(self, seconds: float) -> int | None:
        """Until it stops or ends: its wait status; None if it does neither in this time."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            self._read()  # after that it has told all; and before it has, the pipe must not fill up
            if pid:
                return status
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._reader, 65536):
                self._rest += data

    def told(self) -> list[dict[str, Any]]:
        """What it had told until then, and was not asked for before."""
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def go_on(self) -> None:
        """If it was stopped."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self, *, kill: bool) -> None:
        """It has ended, or has to."""
        os.close(self._reader)
        if kill:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _live(work: Callable[[Tell], None], writer: int) -> None:
    """The whole life of the child: nothing of what its parent has registered for its own end runs in it."""
    status = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        work(lambda **said: os.write(writer, json.dumps(said).encode() + b"\n"))
        status = 0
    except BaseException as error:  # noqa: BLE001 - it is the parent's to raise
        os.write(writer, json.dumps({"broken": repr(error)}).encode() + b"\n")
    finally:
        os._exit(status)


class ForkedPlay(Play):
    """See above. Each delivery begins and ends in its own process; this one only looks on."""

    _tell: Tell | None = None  # in a child: how it tells

    def _drain(self, *, at_most: int, beside: bool = False) -> None:
        for _ in range(at_most):
            child = self._begin()
            if not self._follow(child, self._wait(child)):
                return

    def _begin(self) -> Child:
        name = self._name()
        return Child(lambda tell: self._live(name, tell))

    # -- in the child -----------------------------------------------------------------------------------

    def _live(self, name: str, tell: Tell) -> None:
        self._tell = tell
        actor = Actor(self._queue, self._handler, name)
        lease = actor.claim()
        if lease is None:
            tell(nothing=True)
        else:
            tell(consumer=actor.state.name, id=lease.id)
            number = self._numbers[lease.id]
            fresh, before = not self.paths.get(number), len(self.raised)
            self._deliver(actor, lease)
            tell(happened=self.happened, acked=sorted(self.acked))
            if fresh:
                tell(number=number, path=[(s.where, s.line, s.time, s.leaves) for s in self.paths[number]])
            for of, error in self.raised[before:]:
                tell(raised=[of, repr(error)])
        actor.leave()

    def _say(self, line: str) -> None:
        if self._tell is None:
            super()._say(line)
        else:
            self._tell(say=line)

    def _kill(self, actor: Actor, where: str) -> None:
        super()._kill(actor, where)
        os.kill(os.getpid(), signal.SIGKILL)

    def _stop(self, actor: Actor, consumer: str) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        self._say(f"{actor.name} goes on")

    # -- in the parent ----------------------------------------------------------------------------------

    def _wait(self, child: Child) -> int:
        status = child.wait(DEADLINE)
        if status is None:
            child.close(kill=True)
            raise Stuck(f"a handler did not end within {DEADLINE:.0f} s:\n" + "\n".join(self.story))
        return status

    def _follow(self, child: Child, status: int) -> bool:
        """See a child to its end; False if there was nothing for it."""
        told: dict[str, Any] = {}
        self._note(child, told)
        if os.WIFSTOPPED(status):
            status = self._go_beside(child, told)
            self._note(child, told)
        child.close(kill=False)
        if os.WIFSIGNALED(status) and "id" in told:
            self.happened = self.happened or self._schedule.kind == KILL
            die(self._queue, told["consumer"], told["id"])
        elif status:
            raise Stuck(f"a process of the proof ended with status {status}: {told.get('broken')}")
        return "nothing" not in told

    def _go_beside(self, child: Child, told: dict[str, Any]) -> int:
        """Let another one come in while this one is stopped, then let it go on, to its end."""
        self.happened = True
        self._before_another(told["consumer"])
        other = self._begin()
        status = other.wait(self._patience)
        if status is None:
            self._say("the other one waits, it may be for a lock")
        else:
            self._follow(other, status)
        child.go_on()
        ended = self._wait(child)
        if status is None:
            self._note(child, told)
            self._follow(other, self._wait(other))
        return ended

    def _note(self, child: Child, told: dict[str, Any]) -> None:
        for said in child.told():
            told.update(said)
            if "say" in said:
                self._say(said["say"])
            self.happened = self.happened or said.get("happened", False)
            self.acked.update(said.get("acked", ()))
            if "path" in said:
                self.paths.setdefault(said["number"], [Stop(*each) for each in said["path"]])
            if "raised" in said:
                self.raised.append((said["raised"][0], Failed(said["raised"][1])))
