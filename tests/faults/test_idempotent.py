"""Idempotent handlers while workers are killed and replies get lost: a key is done once, and none stays locked."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

from reliq.core import idempotency, scripts
from reliq.core.command import Command
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer

KEYS, EACH = 80, 3


def test_a_key_is_done_once(server: Any, prefix: str) -> None:
    """Three worker processes, one killed again and again at whatever moment; of every thirtieth call the reply is
    lost. Every message of a key tells of the same run, the one whose ack was accepted; no run begins while another
    goes on; and what is left ends by itself."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        found = {"trip": scripts.trip, "reap": scripts.reap, "enter": idempotency._ENTER}
        proxy.scripts.update({name: script.sha for name, script in found.items()})
        rules = [proxy.on(script=name, action=drop_reply(), count=None, probability=0.03) for name in found]
        receipts: dict[int, list[Any]] = defaultdict(list)
        killer = Killer(it.start(url=proxy.url, processes=3, concurrency=4, once="key"))
        for n in range(KEYS * EACH):
            body = {"n": n, "key": n % KEYS, "ms": 250, "ends": True, "returns": "run"}
            receipts[n % KEYS].append(it.queue.put(body, result=120))
            time.sleep(0.02)
            if n % 15 == 0:
                killer.kill_one()
        wait_until(it.at_rest, 60, "drained", every=0.1)
        for key, of_key in receipts.items():
            runs = {receipt.result(20) for receipt in of_key}
            assert len(runs) == 1, (key, runs)
        by_key = defaultdict[int, list[Any]](list)
        for effect in it.effects():
            by_key[effect["n"] % KEYS].append(effect)
        for effects in by_key.values():
            for place_, effect in enumerate(effects):
                after = effects[place_ + 1] if place_ + 1 < len(effects) else None
                # Behind a begin comes its own end; or nothing of it, since its process was killed.
                own = [e for e in effects[place_ + 1 :] if (e["id"], e["pid"]) == (effect["id"], effect["pid"])]
                assert effect.get("end") or not own or own[0] is after, effects
        doubled = sum(sum(not e.get("end") for e in effects) > 1 for effects in by_key.values())
        print(f"{killer.kills} kills, {[rule.hits for rule in rules]} lost replies, {doubled} keys begun again")
        _, markers = it.queue.links.insist(
            Command("SCAN", (), (0, "MATCH", f"{prefix}:*:once:*", "COUNT", 10_000))
        )
        assert len(markers) == KEYS
        for marker in markers:
            assert it.queue.links.insist(Command("GET", (marker.decode(),)))[:1] == b"d"
            assert it.queue.links.insist(Command("PTTL", (marker.decode(),))) > 0
        assert killer.kills >= 1
        assert all(rule.hits for rule in (rules[0], rules[2]))
