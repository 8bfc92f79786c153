"""The reaper: brings back what dead consumers held. Run it from cron, in a loop, anywhere, any number."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue

from reliq.core import reaping
from reliq.core.reaping import ReapReport
from reliq.core.sample import keep_g
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable
from reliq.identity import clock
from reliq.logging import log
from reliq.sync.queue import Queue


class Reaper:
    """Requeues what consumers held whose lease is over by the server's clock.

    ``Reaper(q).run_once()`` is one pass; ``run()`` goes on until ``stop()``. Recovery after the loss of a
    host takes the lease plus the time between two passes. Workers do this by themselves.
    """

    def __init__(self, *queues: Queue, interval: float = 1.0, scan_steps: int = 10) -> None:
        self._queues = queues
        self._interval = reaping.checked(interval)
        self._scan_steps = scan_steps
        self._scans: dict[str, int] = {}
        self._patience: dict[str, reaping.Patience] = {}
        self._stopping = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def run_once(self) -> ReapReport:
        """One pass over the queues; returns what it found and did (one report, added up)."""
        total = ReapReport(", ".join(q.name for q in self._queues))
        for queue in self._queues:
            total.add(self.reap(queue))
            if self._scan_steps:
                total.add(self.scan(queue, self._scan_steps))
        return total

    def reap(self, queue: Queue, *, recent: float | None = None) -> ReapReport:
        """One pass over one queue's expired consumers; one round trip if there are none.

        ``recent``: only those whose lease ended in the last so many seconds.
        """
        options, started = queue.options, clock()
        patience = self._patience.setdefault(queue.name, reaping.Patience(options.lease, clock))
        patience.ask()
        try:
            flow = reaping.reap_expired_g(
                options.keys,
                lease=options.lease,
                server=queue.links.server.identity,
                max_losses=options.max_losses,
                patience=patience,
                recent=recent,
            )
            report = queue.links.flow(flow)
        except ReliqError:
            patience.failed()
            raise
        if clock() - started > options.lease / 2:
            log.warning("queue %r: this reaper pass took %.1f s", queue.name, clock() - started)
        return report

    def scan(self, queue: Queue, steps: int = 1) -> ReapReport:
        """Some bounded steps of the search for lists that nobody registered; the next call goes on."""
        options = queue.options
        flow = reaping.adopt_strays_g(
            options.keys,
            self._scans.get(queue.name, 0),
            steps,
            lease=options.lease,
            server=queue.links.server.identity,
            max_losses=options.max_losses,
        )
        report, self._scans[queue.name] = queue.links.flow(flow)
        return report

    def on_duty(self, queue: Queue, duty: int) -> ReapReport:
        """What a trip has asked its consumer to do: 1: reap leases that ended in the last minute, 2: reap
        everything, look for strays, forget idle producers, and take a sample of the counters."""
        report = self.reap(queue, recent=None if duty == 2 else 60.0)
        if duty == 2:
            report.add(self.scan(queue, 10))
            queue.links.flow(keep_g(queue.options.keys))
        return report

    def run(self) -> None:
        """Pass after pass, ``interval`` seconds apart, until ``stop()``; goes on through outages of Redis."""
        down = False
        while not self._stopping:
            try:
                report = self.run_once()
                if report.returned or report.buried:
                    log.warning("%s", report)
                if down:
                    log.warning("reaper: Redis answers again")
                down = False
            except (Unavailable, OutcomeUnknown) as error:
                if not down:
                    log.error("reaper: %s Trying again until it answers.", error)
                down = True
            with suppress(Empty):
                self._bell.get(timeout=self._interval)

    def stop(self) -> None:
        """Let ``run`` end after the pass under way. Safe in signal handlers."""
        self._stopping = True
        self._bell.put(None)
