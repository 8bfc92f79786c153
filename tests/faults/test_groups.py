"""Groups while workers are killed and replies get lost: each message is handled, and none is out of sight."""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

import reliq
from reliq.core import scripts
from reliq.core.command import Command
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer
from tests.faults.test_tenants import repeat

GROUPS, EACH = 10, 60


def test_groups_outlive_kills_and_lost_replies(server: Any, prefix: str) -> None:
    """Three worker processes, one killed again and again at whatever moment; of every thirtieth call the reply is
    lost. Every message is handled, also those that gathered while nobody lived, and nothing of a group is left."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        names = ("put", "trip", "reap")
        proxy.scripts.update({name: getattr(scripts, name).sha for name in names})
        for name in names:
            proxy.on(script=name, action=drop_reply(), count=None, probability=0.03)
        producer = threading.Thread(target=put_all, args=(reliq.Queue("work", proxy.url, prefix=prefix),))
        producer.start()
        killer = Killer(it.start(url=proxy.url, processes=3, concurrency=2, batch=15))
        until = time.monotonic() + 6
        while time.monotonic() < until or producer.is_alive():
            killer.kill_one()
            time.sleep(0.1)
        producer.join(30)
        wait_until(it.at_rest, 60, "drained", every=0.1)
        counts = it.count()
        assert set(counts) == set(range(GROUPS * EACH))
        assert sum(counts.values()) - len(counts) <= killer.kills * 2 * 15  # what was in hand of those killed
        assert killer.kills > 2
        k = it.queue.options.keys
        assert it.queue.links.insist(Command("HKEYS", (k.uniques,))) == [b"#"]
        assert it.queue.links.insist(Command("EXISTS", (k.lanes, k.later, k.turns))) == 0


def put_all(queue: reliq.Queue) -> None:
    """Over some seconds, in turn to each group."""
    with queue:
        for n in range(GROUPS * EACH):
            group = reliq.Group(f"g{n % GROUPS}", grace=0.2, max_delay=1, max_size=15)
            try:
                queue.put({"n": n, "ms": 5}, group=group)
            except reliq.OutcomeUnknown as error:
                repeat(queue, error)
            time.sleep(0.008)
