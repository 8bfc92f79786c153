"""What a supervisor decides, without processes: whom it kills and when, and what it does not die of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

import reliq
from reliq.errors import Unavailable
from reliq.identity import clock
from reliq.sync.supervisor import Child, Supervisor

GRACE = 25.0


@pytest.fixture
def supervisor(server: Any, prefix: str) -> Supervisor:
    queue = reliq.Queue("q", server.url, prefix=prefix)
    handler = queue.ack(print, timeout=10)
    made: Any = None
    return Supervisor(made, [(handler, queue)], processes=1, slots=2, grace=GRACE)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


def child_with(supervisor: Supervisor, *, over: float, confirmed: float) -> Child:
    """A child whose handler is so many seconds past its timeout, and which made its last trip so long ago."""
    [child] = supervisor._children
    child.pid = 4711
    child.board.show_station(0, "somebody", 0, clock() - confirmed)
    child.board.start(0, 0, bytes(16), clock() - 10 - over, 10)
    return child


@pytest.mark.parametrize(
    ("over", "confirmed", "dies"),
    [
        (6, 0.1, False),  # it makes trips, so it has seen this: its other handlers get the grace
        (6, 7.0, True),  # silent since before the timeout: a handler holds the interpreter lock
        (4, 7.0, False),
        (GRACE + 6, 0.1, True),
    ],
)
def test_who_helps_itself_is_killed_only_after_the_grace(
    supervisor: Supervisor, killed: list[tuple[int, int]], over: float, confirmed: float, dies: bool
) -> None:
    """The neighbours of a handler that hangs have the grace to finish; they are not to be lost with it."""
    supervisor._mind(child_with(supervisor, over=over, confirmed=confirmed), clock())
    assert killed == ([(4711, signal.SIGKILL)] if dies else [])


def test_a_fork_that_fails_is_tried_again(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many processes for a moment: the supervisor and its other children go on."""
    [child] = supervisor._children

    def fail() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    supervisor._fork(child)
    assert not child.pid
    assert clock() < child.start_at < clock() + 1
    assert supervisor._pause() > 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}


def test_a_reap_that_failed_still_knows_what_had_started(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was away when the process died: tried again with all that is known, or its poison is never counted."""
    child = child_with(supervisor, over=0, confirmed=0)
    queue = supervisor._handlers[0][1]
    calls: list[Any] = []

    def fail(flow: Any) -> Any:
        calls.append(next(flow).args)
        raise Unavailable("away")

    monkeypatch.setattr(queue.links, "flow", fail)
    supervisor._reap(child)
    supervisor._reap_again(clock() + 2)
    assert len(calls) == 2
    assert calls[0] == calls[1]
    assert calls[0][-1] == bytes(16).hex()


PROGRAM = """
import os, sys, reliq
class Broken:
    def write(self, text): return len(text)
    def flush(self): raise BrokenPipeError(32, "Broken pipe")
queue = reliq.Queue("q", sys.argv[1], prefix=sys.argv[2])
queue.put(1)
sys.stdout = eval(sys.argv[3])
parent = os.getpid()
try:
    reliq.Worker(queue.ack(lambda body: None), processes=2, until_empty=True).run()
finally:
    sys.stdout = sys.__stdout__
    if os.getpid() != parent:
        os.write(2, b"a child came out of run()")
"""


@pytest.mark.parametrize("stdout", ["None", "Broken()"])
def test_without_a_usable_stdout(server: Any, prefix: str, stdout: str) -> None:
    """Nobody reads it any more, or there is none: workers are started, and a child never goes on as its parent."""
    command = [sys.executable, "-c", PROGRAM, server.url, prefix, stdout]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (run.returncode, "came out" in run.stderr) == (0, False), run.stderr
