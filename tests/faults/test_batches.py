"""Handlers of batches whose processes are killed in the middle of one, or hang in it."""

from __future__ import annotations

import signal
import time
from typing import Any
from urllib.parse import urlsplit

from reliq.core import envelope as env
from reliq.core import scripts
from reliq.core.command import Command
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer


def test_kill_9_in_the_middle_of_a_batch(server: Any, prefix: str) -> None:
    """Three processes, the oldest killed again and again; of every twentieth trip and reap the reply is lost. Each
    message is handled, and none again that was not brought back from one that died."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        names = ("trip", "reap")
        proxy.scripts.update({name: getattr(scripts, name).sha for name in names})
        rules = [proxy.on(script=name, action=drop_reply(), count=None, probability=0.05) for name in names]
        worker = it.start(url=proxy.url, processes=3, concurrency=2, batch=20, wait=0.1)
        killer, until, put = Killer(worker), time.monotonic() + 5, 0
        while time.monotonic() < until:
            it.queue.put_many({"n": n, "ms": 5} for n in range(put, put + 60))
            put += 60
            time.sleep(0.2)
            killer.kill_one()
        it.drained(40)
        worker.end()
        counts, reaped = it.count(), [e for e in it.events() if e["event"] == "reap"]
        assert set(counts) == set(range(put)), "lost"
        ids = [id for event in reaped for id in event["id"].split()]  # one for each time
        again = {effect["id"] for effect in it.effects() if effect["deliveries"] > 1}
        assert again <= set(ids), "handled again without a cause"
        assert sum(counts.values()) - put <= len(ids)
        assert killer.kills >= 2
        assert rules[0].hits
        assert it.queue.size().dead == 0


def test_one_poisonous_message_of_a_batch_dies_alone(server: Any, prefix: str) -> None:
    """A crash makes suspects of all that were in the batch; each comes alone then, and only one dies of it."""
    with lab(server, prefix) as it:
        bodies: list[dict[str, Any]] = [{"n": n, "ms": 1} for n in range(100)]
        bodies[30] = {"n": 30, "do": "segfault"}
        it.queue.put_many(bodies)
        it.start(supervise=True, concurrency=2, batch=25)
        it.drained(60)
        [member] = it.queue.links.insist(Command("ZRANGE", (it.queue.options.keys.dead,), (0, -1)))
        note, element = env.split_note(member)
        assert note["cause"] == "POISON"
        assert env.unpack(element).lost == 3
        counts = it.count()
        assert counts[30] == 3
        assert set(counts) == set(range(100))
        assert max(count for n, count in counts.items() if n != 30) <= 2


def test_a_batch_that_hangs(server: Any, prefix: str) -> None:
    """Past its timeout its process is replaced, and each of it has failed once; what was done goes on to be."""
    with lab(server, prefix) as it:
        it.queue.put_many([{"n": 0}, {"n": 1, "hold": 60}, {"n": 2}])
        worker = it.start(supervise=True, concurrency=1, batch=3, timeout=1.0)
        it.drained(40)
        assert "this process is replaced" in worker.log()
        attempts = [(effect["n"], effect["attempt"]) for effect in it.effects()]
        assert attempts[:2] == [(0, 1), (1, 1)]
        assert sorted(attempts[2:]) == [(0, 2), (1, 2), (2, 2)]
        assert it.queue.size().dead == 0


def test_a_host_that_is_lost_with_what_was_gathering(server: Any, prefix: str) -> None:
    """What had waited for more comes back to others after the lease, in order, and counts as lost like all that
    was in hand there."""
    with lab(server, prefix, lease=1.0) as it:
        it.queue.put_many({"n": n} for n in range(8))
        victim = it.start(concurrency=1, batch=100, wait=60.0)
        wait_until(lambda: it.queue.size().doing == 8, 20, "gathering")
        assert it.effects() == []
        victim.signal(signal.SIGKILL)
        victim.process.wait(5)
        it.start(concurrency=1, batch=100)
        it.drained(20)
        assert [effect["n"] for effect in it.effects()] == list(range(8))
