"""The exclusive mode: one holder reads batches in order, and removes each after it was handled."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reliq import defaults
from reliq.core.command import Command
from reliq.core.exclusive import Taken
from reliq.core.retry import backoff
from reliq.errors import OutcomeUnknown, QueueFull, ReliqError, Unavailable, WrongKeyType
from reliq.holding import CALL, OVER, RENEW, Begin, Fetch, Held, Holding, Pause, Ring, Step, Verdict
from reliq.identity import clock
from reliq.logging import log
from reliq.sync.link import Link
from reliq.sync.reaper import Reaper

if TYPE_CHECKING:
    from reliq.sync.queue import Queue


class Batch(Held):
    """Messages in your hands, in order, until they are settled together: ``with batch:``, or one of the verbs.

    Leaving the ``with`` block removes them; an exception inside is logged, removes nothing, and lets them come
    again by the queue's policy, then in halves, until the one that fails is alone and is dead-lettered. It does
    not leave the block, so a loop goes on. KeyboardInterrupt and SystemExit leave all as it is, and go on.
    """

    def __init__(self, taken: Taken, holder: Exclusive) -> None:
        super().__init__(taken, holder)
        self._holder = holder

    def ack(self) -> bool:
        """Done: remove them. False: somebody has pushed to the right end of the queue, or taken from it; then
        nothing is removed, and what is still there comes again. Raises LeaseLost, or OutcomeUnknown if
        unanswered."""
        return self._settle(self._verdict(None))

    def retry(self, delay: float | None = None, *, reason: str = "retry") -> bool:
        """Failed: they come again in ``delay`` seconds (None: as the policy says); counts as an attempt."""
        return self._settle(self._again(delay, reason))

    def release(self) -> bool:
        """Leave them in their place; counts no attempt. They come again at once."""
        return self._settle(self._returned())

    def _settle(self, verdict: Verdict) -> bool:
        if self._settled:
            return False
        self._settled = True
        return self._holder.settle(self._taken, verdict)

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not self._settled:
            self._settle(self._verdict(error))
        elif isinstance(error, Exception):
            self._report_late(error)
        return isinstance(error, Exception)


class Exclusive(Holding):
    """Holds a queue for itself alone: ``with q.exclusive() as holder: for batch in holder: with batch: …``

    A thread renews the lock, so a batch may take as long as it likes. One thread may use it, and no forked child.
    ``close`` (or leaving ``with``) leaves in their place, in order, the messages that were not settled.
    """

    def __init__(
        self, queue: Queue, *, batch: int = 500, until_empty: bool = False, wait: float | None = 0.0
    ) -> None:
        self._pid = os.getpid()
        super().__init__(queue.options, f"pid={self._pid}", batch=batch, until_empty=until_empty, wait=wait)
        self._queue = queue
        self._bells: Link | None = None
        self._calling = threading.Lock()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._reaper = Reaper(queue, scan_steps=0)
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while not self._closing.is_set():
            self._open()
            step = self._step()
            if isinstance(step, Taken):
                return Batch(self._hand_over(step), self)
            if step is OVER:
                break
            self._do(step)
        raise StopIteration

    def settle(self, taken: Taken, verdict: Verdict) -> bool:
        """Have it done and wait for the answer, for a lease at most: False if the right end was another."""
        self._check()
        self._owe(taken, verdict)
        deadline = clock() + max(self._options.timeout, self._options.lease)
        while (done := self._outcome(taken)) is None:
            if clock() > deadline:
                raise self._unconfirmed(taken)
            self._do(CALL)
        return done

    def _do(self, step: Step) -> None:
        """One step. If Redis does not answer, a pause."""
        try:
            if isinstance(step, Pause):
                self._closing.wait(step.seconds)
            elif isinstance(step, Ring):
                self._ring(step.seconds)
            elif isinstance(step, Fetch):
                self.state.furnish(step.taken, step.item, self._prepared(self.state.fetch(step.item)))
            elif isinstance(step, Begin):
                self.state.begun(step.taken, step.items, self._prepared(self.state.begin(step.items)))
            elif step is RENEW:
                self._renew()
            else:
                self._call()
        except (Unavailable, OutcomeUnknown) as error:
            self._failures += 1
            self._note_down(error)
            self._closing.wait(backoff(self._failures, most=self._options.lease / defaults.BACKOFF_SHARE))

    def _call(self) -> None:
        with self._calling:
            if self._closing.is_set() and self._all_settled():
                return  # somebody has closed us while this thread waited
            sent_at, command = clock(), self._next_call()
            self._take(self._queue.links.run(command), sent_at)

    def _prepared(self, command: Command) -> Any:
        try:
            return self._queue.links.run(command)
        except WrongKeyType:  # somebody has put something else there
            return None

    def _ring(self, seconds: float) -> None:
        """Wait until something is ready. What the server moves, it moves to where it was."""
        if self._bells is None:
            timeout = self._queue.settings.patience
            self._bells = self._queue.links.new(name="reliq-bell", read_timeout=timeout)
        try:
            self._bells.run(self.state.ring(seconds))
        except QueueFull:  # BLMOVE is refused while Redis is out of memory; the rest is not
            self._closing.wait(min(seconds, 0.25))
        except ReliqError:  # the call that follows meets the same trouble, and reports it
            self._closing.wait(min(seconds, 0.05))

    # -- the lock ---------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Get the lock, once; says now what is wrong."""
        self._check()
        if self._keeper is not None:
            return
        links, until = self._queue.links, None if self._patient_for is None else clock() + self._patient_for
        with suppress(QueueFull):  # a full Redis takes no new entry, but it can be drained
            links.insist(self._options.registration())
        while not self._seize(until):
            pass
        self._keeper = threading.Thread(target=self._keep, name="reliq-keeper", daemon=True)
        self._keeper.start()

    def _seize(self, until: float | None) -> bool:
        """One try; False: it is worth another one."""
        links, server = self._queue.links, self._queue.links.server.identity
        self._patience.ask()
        sent_at = clock()
        seized = links.flow(self.state.seize_g(server, believed=False))
        if (
            seized.status == "busy" and self._reaper.reap(self._queue).consumers
        ):  # what the dead held is ready again
            seized = links.flow(self.state.seize_g(server, believed=False))
        doubted = self._patience.holds(seized.now)  # each time, so that a jump of its clock is seen
        if seized.status == "over" and not doubted:
            sent_at = clock()
            seized = links.flow(self.state.seize_g(server, believed=True))
        if seized.status == "granted":
            self.state.granted(seized, sent_at)
            return True
        self._closing.wait(self._refused(seized, until))
        return False

    def _keep(self) -> None:
        """Renew the lease, and do what is to be done once in a while; also while the user is busy."""
        while not (self._closing.wait(self._pause()) or self.state.lost):
            try:
                if self._renew() == 2:
                    self._reaper.on_duty(self._queue, 2)
            except ReliqError as error:
                self._not_renewed(error)

    def _renew(self) -> int:
        sent_at = clock()
        answer: int = self._queue.links.run(self.state.prolong())
        self._renewed(answer, sent_at)
        return answer

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise self._foreign_error(f"process {self._pid}, the parent of this fork")
        if self._closed:
            raise self._closed_error()

    def close(self) -> None:
        """Leave what was not settled in its place, and let the queue go. Safe to repeat."""
        if self._closed or self._pid != os.getpid():
            return
        self._closing.set()
        self._closed = True
        if self._keeper is None:
            return
        self._keeper.join()
        deadline = clock() + self._options.timeout
        while not self._all_settled() and clock() < deadline:
            self._do(CALL)
        try:
            self._queue.links.insist(self.state.free())
        except ReliqError as error:
            log.warning("queue %r: could not let it go; its lease ends by itself: %s", self._options.name, error)
        finally:
            if self._bells is not None:
                self._bells.close()

    def __enter__(self) -> Exclusive:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
