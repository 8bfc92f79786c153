"""Expiry while workers die: what is late is never begun, what is not is not lost, and each has one end."""

from __future__ import annotations

import os
import signal
import time
from typing import Any
from urllib.parse import urlsplit

from reliq.core import flows, scripts
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply


def test_kill_9_before_they_expire(server: Any, prefix: str) -> None:
    """Claimed ahead, or in hand, by a worker that is killed: back after its time was over, each is dead-lettered
    as EXPIRED, once, and no handler begins with it; those without a time are handled."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix, lease=2.0) as it:
        proxy.scripts |= {"trip": scripts.trip.sha, "reap": scripts.reap.sha}
        for name in ("trip", "reap"):
            proxy.on(script=name, action=drop_reply(), count=None, probability=0.05)
        worker, keys = it.start(url=proxy.url, concurrency=1), it.queue.options.keys
        wait_until(lambda: it.queue.links.flow(flows.consumers_g(keys)), 20, "the worker is there")
        it.queue.put({"n": 0, "hold": 30}, expires=1.5)
        it.queue.put_many([{"n": n} for n in range(1, 40)], expires=1.5)
        it.queue.put_many([{"n": n} for n in range(40, 80)])
        wait_until(it.effects, 20, "the first one is in hand")
        os.kill(worker.pid, signal.SIGKILL)
        begun = set(it.count())
        worker.process.wait(20)
        time.sleep(1.6)  # the time that is said above
        it.start(url=proxy.url, concurrency=4)
        it.drained(40)
        late = set(range(40)) - (begun - {0})
        size = it.queue.size()
        assert size.dead == len(late)
        assert set(it.count()) == begun | set(range(40, 80))
        assert all(times == 1 for times in it.count().values())
        assert {event["detail"] for event in it.events() if event["event"] == "bury"} == {"EXPIRED"}
