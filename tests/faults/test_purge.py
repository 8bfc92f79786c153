"""A purge that dies, or loses replies: what was taken out is gone for good or still aside, and never claimed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import reliq
from reliq.core.purge import _PURGE
from tests.faults.lab import lab
from tests.faults.proxy import FaultProxy, drop_reply

DYING = """
import os, signal, sys
from reliq import Queue
from reliq.core.purge import STATES, purge_g
from reliq.identity import caller

parts = []
def sink(part):
    parts.append(part)
    if len(parts) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

queue = Queue("work", sys.argv[1], prefix=sys.argv[2])
queue.links.flow(purge_g(queue.options.keys, STATES, caller("", "purge"), "dying", sink))
"""


def test_kill_9_in_the_middle_of_a_purge(server: Any, prefix: str) -> None:
    """What it has not removed yet is aside: no worker gets it, the next purge goes on with it, and what was put
    meanwhile is handled. Unique keys and turns of what has gone are free."""
    with lab(server, prefix) as it:
        it.queue.put_many([{"n": n} for n in range(800)])
        it.queue.put_many([{"n": n} for n in range(800, 1000)], delay=600)
        for n in range(1000, 1010):
            it.queue.put({"n": n}, unique=f"u{n}", ordering_key="k")
        words = [sys.executable, "-c", DYING, server.url, prefix]
        died = subprocess.run(words, cwd=Path(__file__).parents[2], timeout=30, check=False)
        assert died.returncode == -signal.SIGKILL
        it.queue.put_many([{"n": n} for n in range(2000, 2050)])
        it.start()
        it.drained(30)
        assert it.count() == dict.fromkeys(range(2000, 2050), 1)
        assert it.queue.purge() == 1010 - 2 * 250
        assert all(it.queue.put({"n": n}, unique=f"u{n}", ordering_key="k").added for n in range(1000, 1010))
        it.drained(30)
        assert set(it.count()) == {*range(1000, 1010), *range(2000, 2050)}


def test_lost_replies_of_a_purge(server: Any, prefix: str) -> None:
    """Of every second call: it ends with all gone, and with nothing that was put since."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        proxy.scripts["purge"] = _PURGE.sha
        it.queue.put_many([{"n": n} for n in range(2000)])
        rule = proxy.on(script="purge", action=drop_reply(), count=None, probability=0.4)
        with reliq.Queue("work", proxy.url, prefix=prefix, timeout=20) as queue:
            queue.purge("ready")
        assert rule.hits > 1
        assert sum(it.queue.size()) == 0
        it.queue.put({"n": 1})
        it.start()
        it.drained(30)
        assert it.count() == {1: 1}
