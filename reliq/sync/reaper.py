"""The reaper: brings back what dead consumers held. Run it from cron, in a loop, anywhere, any number."""

from __future__ import annotations

import threading

from reliq.core import flows, ops
from reliq.core.flows import ReapReport
from reliq.errors import OutcomeUnknown, Unavailable
from reliq.logging import log
from reliq.model import clock
from reliq.sync.queue import Queue


class Reaper:
    """Requeues what consumers held whose lease is over by the server's clock.

    ``Reaper(q).run_once()`` is one pass; ``run()`` goes on until ``stop()``. Recovery after the loss of a
    host takes the lease plus the time between two passes. Workers do this by themselves.
    """

    def __init__(self, *queues: Queue, interval: float = 1.0, scan_steps: int = 10) -> None:
        self._queues = queues
        self._interval = interval
        self._scan_steps = scan_steps
        self._scans: dict[str, int] = {}
        self._stop = threading.Event()

    def run_once(self) -> ReapReport:
        """One pass over the queues; returns what it found and did (one report, added up)."""
        total = ReapReport(", ".join(q.name for q in self._queues))
        for queue in self._queues:
            report = self.reap(queue)
            total.add(report)
        return total

    def reap(self, queue: Queue) -> ReapReport:
        """One pass over one queue."""
        started = clock()
        keys = queue.options.keys
        before = queue.links.insist(ops.server_time())
        link = queue.links.new()
        try:
            link.connect()
            server = link.server.run_id
        finally:
            link.close()
        now = queue.links.insist(ops.server_time())
        if (now - before) / 1000 > queue.options.lease / 2 or clock() - started > queue.options.lease / 2:
            # The server stood still for long: nobody could renew. Let them, for one lease.
            log.warning("queue %r: Redis stood still for %.1f s; no reap by lease in this pass",
                        queue.name, clock() - started)  # fmt: skip
            return ReapReport(queue.name)
        flow = flows.reap_expired_g(
            keys,
            lease=queue.options.lease,
            server=server,
            max_losses=queue.options.max_losses,
            scan=self._scans.get(queue.name, 0),
            scan_steps=self._scan_steps,
        )
        report, self._scans[queue.name] = queue.links.flow(flow)
        return report

    def run(self) -> None:
        """Pass after pass, ``interval`` seconds apart, until ``stop()``; goes on through outages of Redis."""
        down = False
        while not self._stop.is_set():
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
            self._stop.wait(self._interval)

    def stop(self) -> None:
        """Let ``run`` end after the pass under way."""
        self._stop.set()
