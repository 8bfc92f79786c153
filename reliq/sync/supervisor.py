"""The supervisor: forks worker processes, sees them die or hang, and brings back what they held at once.

It runs no handler and has no thread, so forking from it is safe, and it stays alive whatever a handler
does. Its children notice its own death by a pipe and give back what they hold.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

from reliq import defaults
from reliq.core import ops, reaping
from reliq.core.reasons import Reason
from reliq.core.retry import backoff
from reliq.errors import ConfigError, ReliqError, StartFailed
from reliq.health import Sign, Vitals, pages, tally
from reliq.identity import clock
from reliq.logging import log
from reliq.sync.board import Board, SlotView, StationView
from reliq.sync.health import Health
from reliq.sync.loop import Handlers, Loop
from reliq.sync.worker import exit_child, flush_output
from reliq.telemetry.tally import Tally

#: A child that ends with this status wants to be replaced: a handler of it is stuck.
RETIRED: Final = 75
#: A child that ends with this status was told from afar to stop: it is not replaced.
DISMISSED: Final = 76
#: A child that ends with this status could not start.
NOT_STARTED: Final = 77
#: What a child is told by; see _obey().
_ORDERS: Final = tuple(order for order in signal.Signals if order.name in ("SIGTERM", "SIGINT", "SIGQUIT"))
_PR_SET_PDEATHSIG: Final = 1
#: After its timeout a handler gets so many seconds before its process is killed from outside.
_KILL_MARGIN: Final = 5.0
#: A process that dies so often in a row when it has just started is not well.
_DYING: Final = 3


class Child:
    """A worker process and its board; ``pid`` is 0 while there is none."""

    def __init__(self, number: int, slots: int, stations: int, batch: int) -> None:
        self.number = number
        self.board = Board(slots, stations, batch)
        self.pid = 0
        self.started_at = 0.0
        self.start_at = 0.0
        self.failures = 0
        self.stopped = False
        self.done = False
        self.renewed_at: dict[int, float] = {}
        self.counts: Tally | None = None  # also of those before it in this place


class Supervisor:
    """Keeps ``processes`` children running until stopped; with ``until_empty``, until each of them found the
    queues empty and ended by itself."""

    def __init__(
        self,
        make: Callable[[Board, Tally | None], Loop],
        handlers: Handlers,
        *,
        processes: int,
        slots: int,
        grace: float,
        until_empty: bool = False,
        health: str | None = None,
    ) -> None:
        if not hasattr(os, "fork"):
            raise ConfigError("processes need fork(), which this platform lacks; use processes=1")
        self._make = make
        self._handlers = handlers
        self._grace = grace
        self._until_empty = until_empty
        # Twice: plain and coroutine handlers have slots of their own each.
        batch = max(each.batch or 1 for handling, _ in handlers for each in handling.handlers)
        self._children = [Child(n, 2 * slots, len(handlers), batch) for n in range(processes)]
        self._health_at = health
        self._health: Health | None = None
        self._counts: Tally | None = None  # what was reaped from here
        self._shortest_lease = min(queue.options.lease for _, queue in handlers)
        self._stops = 0
        self._told = 0
        self._was_up = self._not_started = False
        self._kill_at: float | None = None
        self._again: list[tuple[float, int, StationView, list[bytes]]] = []  # when, and what to reap once more

    def stop(self) -> None:
        """First call: children finish within the grace. Second: they give everything back at once."""
        self._stops += 1

    def run(self) -> None:
        """Until stopped and every child is gone."""
        if threading.active_count() > 1:
            raise ConfigError(
                "processes=N forks, which is unsafe while this process has other threads "
                f"({', '.join(t.name for t in threading.enumerate())}); start it before them, or run "
                "`reliq worker module:handler`"
            )
        for _, queue in self._handlers:
            queue.enroll()
        self._listen()
        self._alive, self._child_end = os.pipe()  # children read; it ends when we do
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        previous_fd = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        previous = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        try:
            while self._step():
                health = self._health
                waited_for: list[int | Health] = [wake_read] if health is None else [wake_read, health]
                if wake_read in select.select(waited_for, [], [], self._pause())[0]:
                    os.read(wake_read, 512)
                if health is not None:
                    health.step()
        finally:
            signal.set_wakeup_fd(previous_fd)
            signal.signal(signal.SIGCHLD, previous)
            for fd in (self._alive, self._child_end, wake_read, wake_write):
                os.close(fd)
            if self._health is not None:
                self._health.close()
        if self._not_started:
            raise StartFailed(
                "the worker processes could not start: the line of the log above this one says why. Nothing was "
                "claimed. Correct that, and start the worker again"
            )

    def _step(self) -> bool:
        now = clock()
        self._collect()
        self._tell(now)
        for child in self._children:
            if child.pid:
                self._mind(child, now)
            elif self._wanted(child) and now >= child.start_at:
                self._fork(child)
        self._reap_again(now)
        return any(child.pid or self._wanted(child) for child in self._children)

    def _wanted(self, child: Child) -> bool:
        """Whether there has to be a process in this child's place."""
        return not (self._stops or child.done)

    def _pause(self) -> float:
        now = clock()
        waits = [self._shortest_lease / 8, 1.0]
        waits += [c.start_at - now for c in self._children if not c.pid and self._wanted(c)]
        waits += [entry[0] - now for entry in self._again]
        return max(0.0, min(waits))

    # -- children come and go ---------------------------------------------------------------------------

    def _fork(self, child: Child) -> None:
        child.board.clear()
        flush_output()
        parent = os.getpid()
        # Held back until the child has handlers of its own: those that it inherits would stop a copy of us.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ORDERS)
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: no reason to end the others
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            child.failures += 1
            child.start_at = clock() + backoff(child.failures, first=0.1)
            log.error("cannot start a worker process (%s); trying again", error)
            return
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            child.pid, child.started_at, child.stopped = pid, clock(), False
            return
        status = 1
        try:
            status = self._be_child(child, parent, unblocked)
        except StartFailed as error:
            status = NOT_STARTED
            log.error("worker process: %s", error, exc_info=error.__cause__)
        except ReliqError as error:
            log.error("worker process: %s", error)
        except BaseException:  # noqa: BLE001 - a forked child must end here, whatever happens
            log.exception("worker process failed")
        finally:
            exit_child(status)

    def _be_child(self, child: Child, parent: int, unblocked: set[int]) -> int:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._child_end)
        die_with(parent)
        if self._health is not None:
            self._health.abandon()
        loop = self._make(child.board, child.counts)
        _obey(loop)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        threading.Thread(target=self._watch_parent, args=(loop,), name="reliq-parent", daemon=True).start()
        clean = loop.run()
        return DISMISSED if loop.dismissed else 0 if clean else RETIRED

    def _watch_parent(self, loop: Loop) -> None:
        """Our supervisor holds the other end of this pipe; when it is gone, nobody renews for us."""
        os.read(self._alive, 1)
        log.error("the supervisor is gone; giving back what this process holds")
        loop.stop()
        loop.stop()

    def _collect(self) -> None:
        """Who ended, was stopped or goes on? waitpid says; never guess from silence."""
        for child in self._children:
            while child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
                if not pid:
                    break
                if os.WIFSTOPPED(status):
                    child.stopped = True
                elif os.WIFCONTINUED(status):
                    child.stopped = False
                else:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        pid, child.pid = child.pid, 0
        self._was_up = self._was_up or bool(child.board.stations())
        self._reap(child)
        if code == DISMISSED:
            child.done = True
            log.warning("worker process %d was told from afar to stop, and is not replaced", pid)
            return
        if self._stops and code in (0, RETIRED, -signal.SIGTERM, -signal.SIGINT):
            return
        if self._until_empty and code == 0:
            child.done = True
            return
        if code == NOT_STARTED and not self._was_up:
            self._not_started = True
            self.stop()
            return
        lived = clock() - child.started_at
        soon = code == NOT_STARTED or (lived < 1.0 and code != RETIRED)
        child.failures = child.failures + 1 if soon else 0
        child.start_at = clock() + (backoff(child.failures, first=0.1) if child.failures else 0.0)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        then = "" if self._stops else "; starting another"
        log.warning("worker process %d ended (%s after %.1f s)%s", pid, how, lived, then)

    # -- what it held -----------------------------------------------------------------------------------

    def _reap(self, child: Child) -> None:
        """Bring back at once what a dead process held; its names are dead for good."""
        slots = child.board.slots()
        for index, station in child.board.stations().items():
            queue = self._handlers[index][1]
            started = [slot.id for slot in slots if slot.station == index]
            self._reap_name(index, station, started)
            # A grandchild that inherited the socket may still stand in BLMOVE and take one more.
            self._again.append((clock() + queue.options.block + 1.0, index, station._replace(bell_id=0), []))
        child.board.clear()

    def _reap_name(self, index: int, station: StationView, started: list[bytes]) -> None:
        queue = self._handlers[index][1]
        keys, losses = queue.options.keys, queue.options.max_losses
        try:
            if station.bell_id:
                queue.links.insist(ops.kill_client(station.bell_id))
            flow = reaping.reap_dead_g(keys, station.consumer, max_losses=losses, started=started)
            report = queue.links.flow(flow)
            if report.returned or report.buried:
                log.warning("reaped: %s", report)
            if self._counts is not None:
                self._counts.watch(queue.name, 0.0).reaped(report.returned, report.buried)
        except ReliqError as error:
            log.error(
                "queue %r: could not reap %s at once (%s); tried again soon", queue.name, station.consumer, error
            )
            self._again.append((clock() + 1.0, index, station, started))

    def _reap_again(self, now: float) -> None:
        due = [entry for entry in self._again if entry[0] <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        for _, index, station, started in due:
            self._reap_name(index, station, started)

    # -- children that live -----------------------------------------------------------------------------

    def _mind(self, child: Child, now: float) -> None:
        """Kill a child whose handler is past its timeout and did not let the child help itself; renew for
        one that is kept from it by a handler that holds the interpreter lock."""
        stations = child.board.stations()
        self._was_up = self._was_up or bool(stations)
        confirmed_at = max((station.confirmed_at for station in stations.values()), default=0.0)
        late = [slot for slot in child.board.slots() if self._is_late(slot, now, confirmed_at)]
        if late and not self._stops:
            about = {"id": late[0].id.hex(), "queue": self._handlers[late[0].station][1].name}
            log.error("worker process %d: message %s is past its timeout of %s s and the process does not end; "
                      "killing it", child.pid, late[0].id.hex(), late[0].timeout,
                      extra=about)  # fmt: skip
            os.kill(child.pid, signal.SIGKILL)
            return
        if child.stopped:
            return
        for index, station in stations.items():
            lease = self._handlers[index][1].options.lease
            silent = now - station.confirmed_at
            renewed = now - max(station.confirmed_at, child.renewed_at.get(index, 0.0))
            if renewed > lease / 2 and silent < defaults.GIL_CAP:
                child.renewed_at[index] = now
                self._renew(index, station)

    def _is_late(self, slot: SlotView, now: float, confirmed_at: float) -> bool:
        """Past its timeout for so long that the process is to be killed. One that has made a trip since then
        helps itself: it lets its other handlers finish within the grace, and they are not to die with this one."""
        if not slot.timeout:
            return False
        over = now - slot.started_at - slot.timeout
        return over > _KILL_MARGIN + (self._grace if confirmed_at > now - over else 0.0)

    def _renew(self, index: int, station: StationView) -> None:
        queue = self._handlers[index][1]
        try:
            queue.links.run(ops.renew(queue.options.keys, station.consumer, queue.options.lease))
        except ReliqError as error:
            log.debug("queue %r: could not renew for %s: %s", queue.name, station.consumer, error)

    # -- who asks how they are --------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._health_at is None:
            return
        queues = [queue.name for _, queue in self._handlers]
        for child in self._children:
            child.counts = tally(queues, lambda size: mmap.mmap(-1, size))
        self._counts = tally(queues)
        counts = [*(child.counts for child in self._children), self._counts]
        self._health = Health("health", self._health_at, pages(self._vitals, counts))

    def _vitals(self) -> Vitals:
        """How the children are. One that has just started has the time of a silence to come through to Redis."""
        now, children = clock(), [child for child in self._children if not child.done]
        signs = [sign for child in children for sign in self._signs(child, now)]
        dying = [
            f"{Reason.TOO_FEW_WORKERS}: a process died {child.failures} times in a row when it had just started"
            for child in children
            if child.failures > _DYING
        ]
        away = "it stops" if self._stops else "" if any(c.board.stations() for c in children) else "it starts"
        return Vitals(signs, dying, away)

    def _signs(self, child: Child, now: float) -> Iterator[Sign]:
        stations, whose = child.board.stations(), f" of process {child.pid}"
        for index, (_, queue) in enumerate(self._handlers):
            confirmed_at = stations[index].confirmed_at if index in stations else 0.0
            silent = now - max(confirmed_at, child.started_at)
            if child.pid:
                yield Sign(queue.name, silent, queue.options.lease, whose)

    # -- the end ----------------------------------------------------------------------------------------

    def _tell(self, now: float) -> None:
        """Pass on every request to stop; kill what is still there long after the grace."""
        while self._told < min(self._stops, 2):
            self._told += 1
            self._kill_at = now + self._grace + 5.0 if self._told == 1 else now + 5.0
            for child in self._children:
                if child.pid:
                    os.kill(child.pid, signal.SIGTERM if self._told == 1 else signal.SIGQUIT)
        if self._kill_at is not None and now > self._kill_at:
            for child in self._children:
                if child.pid:
                    log.error("worker process %d did not end in time; killing it", child.pid)
                    os.kill(child.pid, signal.SIGKILL)
            self._kill_at = now + 5.0


def _obey(loop: Loop) -> None:
    """What a child does on SIGTERM (finish) and SIGQUIT (give back at once), as its supervisor sends them.

    A terminal (Ctrl-C) and systemd signal the whole group, so children get that besides what their supervisor
    passes on. Therefore SIGINT is for the supervisor alone, and SIGTERM says the same however often it comes.
    (A handler that does nothing, and not SIG_IGN, which programs that a handler starts would inherit.)
    """
    given = 0

    def stop(times: int) -> None:
        nonlocal given
        for _ in range(given, times):
            loop.stop()
        given = max(given, times)

    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.signal(signal.SIGTERM, lambda number, frame: stop(1))
    signal.signal(signal.SIGQUIT, lambda number, frame: stop(2))


def die_with(parent: int) -> None:
    """Let the kernel send us SIGTERM when the supervisor dies, where it can; the pipe says it anyway."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
