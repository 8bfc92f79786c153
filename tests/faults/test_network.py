"""Replies are lost, Redis dies or is full, garbage arrives: a worker goes on and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from typing import Any

import pytest

import reliq
from reliq.core import envelope as env
from reliq.core import ops, scripts
from reliq.core.command import Command
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, delay_reply, drop_reply
from tests.servers import RedisServer

SCRIPTS = {name: getattr(scripts, name).sha for name in ("trip", "put", "reap", "expired")}


def moved(reply: bytes) -> bool:
    """A BLMOVE that brought something, as opposed to one whose time was over."""
    return not reply.startswith((b"$-1", b"*-1", b"-"))


@pytest.fixture
def proxy(server: Any) -> Any:
    """A proxy in front of the server that knows our scripts by name."""
    host, port = server.url.removeprefix("redis://").split("/")[0].split(":")
    with FaultProxy(host, int(port)) as made:
        made.scripts.update(SCRIPTS)
        yield made


@pytest.mark.parametrize("what", ["BLMOVE", "trip"])
def test_a_lost_reply_is_delivered_by_the_same_worker_within_a_second_once(
    server: Any, prefix: str, proxy: FaultProxy, what: str
) -> None:
    """Redis ran it and nobody was told: the same worker handles that message at once, and once."""
    with lab(server, prefix) as it:
        worker = it.start(url=proxy.url, concurrency=2)
        wait_until(lambda: proxy.counts[b"BLMOVE"] > 0, 10, "waits in BLMOVE")
        if what == "BLMOVE":
            rule = proxy.on(command=b"BLMOVE", reply=moved, action=drop_reply())
        else:
            rule = proxy.on(script="trip", action=drop_reply())
        started = time.monotonic()
        it.queue.put({"n": 1})
        assert rule.wait(5)
        wait_until(it.effects, 2, "handled")
        assert time.monotonic() - started < 1.0
        it.drained(5)
        assert it.count() == {1: 1}
        assert it.effects()[0]["pid"] == worker.pid


def test_every_tenth_reply_lost_loses_and_doubles_nothing(server: Any, prefix: str, proxy: FaultProxy) -> None:
    """300 messages through a line that swallows one trip in ten: each handled exactly once."""
    with lab(server, prefix) as it:
        it.queue.put_many({"n": n, "ms": 1} for n in range(300))
        proxy.on(script="trip", action=drop_reply(), count=None, probability=0.1)
        it.start(url=proxy.url, concurrency=4)
        it.drained(60)
        assert it.count() == dict.fromkeys(range(300), 1)


def test_a_put_whose_reply_is_lost_is_in_once(server: Any, prefix: str, proxy: FaultProxy) -> None:
    """put repeats itself; the server recognises the repeat."""
    rule = proxy.on(script="put", action=drop_reply())
    with reliq.Queue("work", proxy.url, prefix=prefix) as queue:
        queue.put(1)
        assert rule.hits == 1
        assert queue.size().ready == 1


def test_redis_killed_and_restarted_loses_nothing_that_was_confirmed(own_server: RedisServer, prefix: str) -> None:
    """appendfsync always: reconnect with backoff, reconcile, go on; one log line for the outage."""
    with lab(own_server, prefix, lease=2.0) as it:
        it.queue.put_many({"n": n, "ms": 5} for n in range(600))
        worker = it.start(concurrency=4)
        for mark in (100, 300):
            wait_until(lambda mark=mark: len(it.effects()) > mark, 20, f"{mark} handled")
            own_server.kill()
            time.sleep(0.3)
            own_server.start()
        it.drained(30)
        assert set(it.count()) == set(range(600))
        assert worker.log().count("Trying again until it answers") <= 4


def test_an_outage_longer_than_the_lease_expires_nobody(own_server: RedisServer, prefix: str) -> None:
    """Redis is away for two leases; the handler at work meanwhile keeps its message."""
    with lab(own_server, prefix, lease=1.0) as it:
        it.queue.put({"n": 1, "ms": 4000})
        it.start(concurrency=1)
        other = it.start(concurrency=1)
        wait_until(it.effects, 10, "in hand")
        wait_until(lambda: "worker started" in other.log(), 10, "the other has reached Redis")
        own_server.kill()
        time.sleep(2.0)
        own_server.start()
        it.drained(15)
        assert it.count() == {1: 1}
        assert other.process.poll() is None


def test_a_redis_that_stood_still_expires_nobody(own_server: RedisServer, prefix: str) -> None:
    """The server is stopped for three leases, and its clock has gone on: nobody could renew, nobody is reaped."""
    with lab(own_server, prefix, lease=1.0) as it:
        it.queue.put_many({"n": n, "ms": 5000} for n in range(2))
        it.start(concurrency=1)
        it.start(concurrency=1)
        wait_until(lambda: len(it.effects()) == 2, 10, "in hand")
        own_server.suspend()
        time.sleep(3.0)
        own_server.resume()
        it.drained(15)
        assert it.count() == {0: 1, 1: 1}


def test_a_reaper_doubts_an_answer_that_came_late(server: Any, prefix: str, proxy: FaultProxy) -> None:
    """While Redis was silent nobody could renew: what it then says about leases counts one lease later."""
    with lab(server, prefix, lease=1.0) as it, reliq.Queue("work", proxy.url, prefix=prefix, lease=1.0) as queue:
        it.queue.put({"n": 1, "ms": 60_000})
        worker = it.start(concurrency=1)
        wait_until(it.effects, 10, "in hand")
        worker.signal(signal.SIGKILL)
        reaper = reliq.Reaper(queue)
        keys = it.queue.options.keys
        wait_until(lambda: it.queue.links.insist(ops.expired(keys, 0, 10))[1], 5, "its lease is over")
        proxy.on(script="expired", action=delay_reply(0.6))
        late = reaper.run_once()
        assert (len(late.waiting), late.returned) == (1, 0)
        assert reaper.run_once().returned == 0
        wait_until(lambda: reaper.run_once().returned, 5, "reaped one lease later")


def test_a_lease_is_kept_while_a_round_trip_takes_less_than_a_third_of_it(
    server: Any, prefix: str, proxy: FaultProxy
) -> None:
    """Every round trip takes 0.5 s of a lease of 1.8 s; a handler of four leases keeps its message, however often
    somebody looks for leases that are over."""
    with lab(server, prefix, lease=1.8) as it:
        it.start(url=proxy.url, concurrency=1)
        wait_until(lambda: proxy.counts[b"BLMOVE"] > 0, 10, "waits in BLMOVE")
        proxy.latency = 0.25
        it.queue.put({"n": 1, "ms": 7000})
        wait_until(it.effects, 5, "in hand")
        reaper = reliq.Reaper(it.queue)
        wait_until(lambda: reaper.run_once().consumers or it.at_rest(), 20, "reaped or done")
        it.drained(1)
        assert it.count() == {1: 1}
        assert {e["event"] for e in it.events()} <= {"start", "stop"}


def test_a_handler_that_is_cut_off_is_told_before_its_lease_ends(
    server: Any, prefix: str, proxy: FaultProxy
) -> None:
    """Nobody answers any more: lease.lost turns True while the message is certainly still ours."""
    with lab(server, prefix, lease=2.0) as it, reliq.Queue("work", proxy.url, prefix=prefix, lease=2.0) as queue:
        it.queue.put({"n": 1})
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(timeout=5)
            proxy.partition()
            try:
                keys = it.queue.options.keys
                while not it.queue.links.insist(ops.expired(keys, 0, 10))[1]:
                    if lease.lost:
                        break
                    time.sleep(0.02)
                assert lease.lost, "its lease was over, and nobody had told it"
            finally:
                proxy.heal(deliver=False)
                lease.ack()


def _fill(queue: reliq.Queue) -> None:
    for n in range(20_000):
        queue.put({"n": n, "fill": "x" * 1000})


def test_a_full_redis_refuses_puts_and_is_drained(own_server: RedisServer, prefix: str) -> None:
    """noeviction and no memory: QueueFull for producers; consumers drain it with no memory freed by hand."""
    with lab(own_server, prefix) as it:
        own_server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
        used = int(dict(own_server.client().info("memory"))["used_memory"])
        own_server.cli("CONFIG", "SET", "maxmemory", used + 3_000_000)
        with pytest.raises(reliq.QueueFull, match="maxmemory"):
            _fill(it.queue)
        total = it.queue.size().ready
        it.start(concurrency=8)
        it.drained(60)
        assert it.count() == dict.fromkeys(range(total), 1)


def test_garbage_among_good_messages_is_dead_lettered_each_with_its_reason(server: Any, prefix: str) -> None:
    """1,000 good and 50 bad: 1,000 handled, 50 dead with reasons, nothing stops."""
    with lab(server, prefix) as it:
        good = [env.pack(os.urandom(16), env_body({"n": n})) for n in range(1000)]
        whole = good[0]
        future = bytearray(env.pack(os.urandom(16), b"from the future"))
        future[4] = 9
        long = whole[:5] + struct.pack(">I", 7) + whole[9:]
        bad = [b"", whole[:30], whole[:-3], bytes(future), long, b"\xc1rlq", b"{", b"\xff" * 10, b"x" * 10_000_000]
        bad += [os.urandom(n) for n in range(20, 20 + 50 - len(bad))]
        mixed = list(good)
        for place, element in enumerate(bad):
            mixed.insert(place * 20, element)
        for element in mixed:
            it.queue.links.run(Command("LPUSH", (it.queue.options.keys.ready,), (element,)))
        worker = it.start(supervise=True, concurrency=8)
        it.drained(60)
        assert it.count() == dict.fromkeys(range(1000), 1)
        dead = it.queue.links.insist(Command("ZRANGE", (it.queue.options.keys.dead,), (0, -1)))
        notes = [env.split_note(member)[0] for member in dead]
        assert len(notes) == 50
        assert all(note["error"] for note in notes)
        causes = {note["cause"] for note in notes}
        assert {"UNDECODABLE", "UNSUPPORTED_VERSION", "BAD_LENGTH"} == causes
        assert worker.process.poll() is None


def env_body(body: Any) -> bytes:
    import msgpack

    return bytes(msgpack.packb(body))


def test_identical_raw_messages_of_a_foreign_producer_are_each_processed(server: Any, prefix: str) -> None:
    """A plain LPUSH of equal JSON texts: each gets an id of its own and is handled once."""
    with lab(server, prefix) as it:
        for _ in range(100):
            it.queue.links.run(Command("LPUSH", (it.queue.options.keys.ready,), (json.dumps({"n": 7}),)))
        it.start(concurrency=4)
        it.drained(20)
        assert it.count() == {7: 100}
        assert len({effect["id"] for effect in it.effects()}) == 100
