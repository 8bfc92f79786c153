"""Tenants while workers are killed and replies get lost: limits hold, no place leaks, everything is handled."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from typing import Any
from urllib.parse import urlsplit

import reliq
from reliq.core import scripts
from reliq.core.command import Command
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer

TENANTS, EACH, MOST = 5, 100, 3


def test_limits_outlive_kills_and_lost_replies(server: Any, prefix: str) -> None:
    """Three worker processes, one killed again and again at whatever moment; of every thirtieth call the reply is
    lost. No tenant ever has more in hand than its limit, and in the end no place is taken."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        names = ("put", "trip", "reap")
        proxy.scripts.update({name: getattr(scripts, name).sha for name in names})
        for name in names:
            proxy.on(script=name, action=drop_reply(), count=None, probability=0.03)
        it.queue.limit(tenant_concurrency=MOST)
        producer = threading.Thread(target=put_all, args=(reliq.Queue("work", proxy.url, prefix=prefix),))
        producer.start()
        killer = Killer(it.start(url=proxy.url, processes=3, concurrency=8))
        k, most = it.queue.options.keys, Counter[str]()
        until = time.monotonic() + 6
        while time.monotonic() < until:
            uniques = it.queue.links.insist(Command("HGETALL", (k.uniques,)))
            counts = dict(zip(uniques[::2], uniques[1::2], strict=True))
            for field, count in counts.items():
                if field[:1] == b"~":
                    most[field[1:].decode()] = max(most[field[1:].decode()], int(count))
            killer.kill_one()
            time.sleep(0.05)
        producer.join(30)
        wait_until(it.at_rest, 60, "drained", every=0.1)
        assert set(it.count()) == set(range(TENANTS * EACH))
        assert set(most.values()) == {MOST}
        assert at_once(it.effects()) <= MOST
        assert killer.kills > 2
        assert it.queue.links.insist(Command("HKEYS", (k.uniques,))) == [b"#"]
        assert it.queue.links.insist(Command("EXISTS", (k.lanes, k.later))) == 0


def put_all(queue: reliq.Queue) -> None:
    """All of one tenant after the other."""
    with queue:
        for n in range(TENANTS * EACH):
            body = {"n": n, "ms": 25, "ends": True}
            try:
                queue.put(body, tenant=f"t{n // EACH}")
            except reliq.OutcomeUnknown as error:
                repeat(queue, error)


def repeat(queue: reliq.Queue, error: reliq.OutcomeUnknown) -> None:
    """Until it is known."""
    while True:
        try:
            queue.repeat(error)
            return
        except reliq.OutcomeUnknown as again:
            error = again


def at_once(effects: list[dict[str, Any]]) -> int:
    """How many handlers of one tenant ran at once, at most, in processes that lived: which did something later."""
    running, most = defaultdict[int, dict[Any, int]](dict), 0
    last = {effect["pid"]: place for place, effect in enumerate(effects)}
    for place, effect in enumerate(effects):
        mine = running[effect["n"] // EACH]
        if effect.get("end"):
            mine.pop(effect["n"], None)
        else:
            mine[effect["n"]] = effect["pid"]
        most = max(most, sum(last[pid] > place for pid in mine.values()))
    return most
