"""Ordering keys while workers are killed and replies get lost: in order, one at a time, and none is left over."""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from reliq.core import scripts
from reliq.core.command import Command
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer

KEYS, EACH = 8, 200


def test_order_outlives_kills_and_lost_replies(server: Any, prefix: str) -> None:
    """Three worker processes, one killed again and again at whatever moment; of every thirtieth call the reply is
    lost. Of each key the messages begin in order, none before the one in front of it has ended, and none is left
    waiting. (One that was in hand when its worker died begins once more, before the next.)"""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        names = ("put", "trip", "reap")
        proxy.scripts.update({name: getattr(scripts, name).sha for name in names})
        for name in names:
            proxy.on(script=name, action=drop_reply(), count=None, probability=0.03)
        for n in range(EACH * KEYS):
            it.queue.put({"n": n, "ms": 20, "ends": True}, ordering_key=f"k{n % KEYS}")
        killer = Killer(it.start(url=proxy.url, processes=3, concurrency=4))
        until = time.monotonic() + 6
        while time.monotonic() < until:
            time.sleep(0.2)
            killer.kill_one()
        wait_until(it.at_rest, 60, "drained", every=0.1)
        by_key = defaultdict[int, list[Any]](list)
        for effect in it.effects():
            by_key[effect["n"] % KEYS].append(effect)
        for key, effects in by_key.items():
            begun = [e["n"] for e in effects if not e.get("end")]
            assert begun == sorted(begun), key
            assert set(begun) == set(range(key, EACH * KEYS, KEYS)), key
            for before, after in pairwise(effects):
                # Nothing of another message stands between a begin and the end of the same attempt.
                assert before.get("end") or before["n"] == after["n"], (before, after)
        assert killer.kills > 2
        k = it.queue.options.keys
        assert it.queue.links.insist(Command("ZCARD", (k.lanes,))) == 0
        assert it.queue.links.insist(Command("HKEYS", (k.uniques,))) == [b"#"]
