"""Messages of a type that nobody handles, while workers are killed and replies get lost: each is kept."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from reliq.core import envelope as env
from reliq.core import routing, scripts
from reliq.core.command import Command
from tests.faults.lab import Lab, lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer

EACH = 1500


def waiting(it: Lab) -> list[env.Envelope]:
    """What is in later."""
    found = it.queue.links.insist(Command("ZRANGE", (it.queue.options.keys.later,), (0, -1)))
    return list(map(env.unpack, found))


def make_due(it: Lab) -> None:
    """Let what waits be due now."""
    later = it.queue.options.keys.later
    elements = it.queue.links.insist(Command("ZRANGE", (later,), (0, -1)))
    pairs = [word for element in elements for word in (1, element)]
    for start in range(0, len(pairs), 500):
        it.queue.links.insist(Command("ZADD", (later,), ("XX", *pairs[start : start + 500])))


def test_kept_for_whoever_handles_it(server: Any, prefix: str) -> None:
    """Three worker processes that handle one of two types, one killed again and again at whatever moment; of every
    twentieth trip the reply is lost. What they handle is handled; the other half is in later, each message once,
    was in no handler's hands, and is handled by the first worker that has a handler for it."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        proxy.scripts.update({name: getattr(scripts, name).sha for name in ("trip", "reap")})
        rules = [
            proxy.on(script=name, action=drop_reply(), count=None, probability=0.05) for name in ("trip", "reap")
        ]
        ids: dict[str, set[str]] = {"mine": set(), "new": set()}
        worker = it.start(url=proxy.url, processes=3, concurrency=4, type="mine")
        killer = Killer(worker)
        until = time.monotonic() + 5
        n = 0
        while time.monotonic() < until:
            for kind, known in ids.items():
                known |= set(it.queue.put_many([{"n": n, "ms": 2}] * (EACH // 25), type=kind))
            n += 1
            time.sleep(0.2)
            killer.kill_one()

        def kept() -> bool:
            size = it.queue.size()
            return size.ready + size.doing == 0 and size.later == len(ids["new"])

        wait_until(kept, 40, f"what is new waits (now {it.queue.size()})", every=0.1)
        worker.end()
        assert kept()
        found = waiting(it)
        assert {envelope.id.hex() for envelope in found} == ids["new"]
        assert all(routing.times_of(envelope.meta) for envelope in found)
        assert {(e.failed, e.released) for e in found} == {(0, 0)}
        assert {effect["id"] for effect in it.effects()} == ids["mine"]
        assert killer.kills >= 2
        assert rules[0].hits

        make_due(it)
        other = it.start(url=proxy.url, processes=2, concurrency=4, type="new")
        wait_until(it.at_rest, 40, "drained", every=0.1)
        other.end()
        assert {effect["id"] for effect in it.effects()} == ids["mine"] | ids["new"]
        assert it.queue.size().dead == 0
