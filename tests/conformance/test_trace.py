"""Traced messages in both shells: every step is told, and nothing of those that are not traced."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import trace
from reliq.errors import ConfigError
from reliq.identity import host_name
from tests.conformance.shell import Shell
from tests.conformance.test_faults import proxy as proxy
from tests.conformance.test_worker import KINDS, QUICK, make, run
from tests.faults.proxy import FaultProxy, drop_reply


def kinds(found: Any) -> list[str]:
    return [happening.event for happening in found.timeline]


@KINDS
async def test_every_step_is_told(sh: Shell, kind: str) -> None:
    """Who put it, from where; each delivery with its worker; each failure with its cause; the ack and its time."""
    q = sh.queue(trace=True, retry=QUICK)

    def work(body: Any, lease: Any) -> None:
        if lease.attempt == 1:
            raise ValueError("not yet")

    id = await sh(q.put("a body"))
    handler = make(q, kind, work)
    while sum(await sh(q.size())):
        await run(sh, handler)
    found = await sh(q.explain(id))
    assert (found.state, found.reason) == ("done", "DONE")
    assert kinds(found) == ["put", "deliver", "fail", "retry", "deliver", "ack"]
    put, first, failed, _, second, ack = found.timeline
    program = os.path.basename(sys.argv[0])
    assert put.told == f"put by {host_name()}:{os.getpid()} {program}"
    assert (first.told, second.told) == ("delivered to a handler, attempt 1", "delivered to a handler, attempt 2")
    assert failed.told == "failed: ValueError: not yet"
    assert ack.told.endswith(" ms after that")
    assert f"-{os.getpid()}-" in first.consumer
    assert ack.consumer == second.consumer
    assert [h.at for h in found.timeline] == sorted(h.at for h in found.timeline)


@pytest.mark.parametrize("how", ["block", "verb"])
async def test_pulled_messages_are_told_too(sh: Shell, how: str) -> None:
    """A consumer's leases, settled by the end of the block or by hand; and while one is in hand, since when."""
    q = sh.queue(trace=1)
    id = await sh(q.put(1))
    async with sh.open(q.consumer()) as consumer:
        [lease] = await sh(consumer.claim())
        await sh(q.put(2))  # any later trip of the consumer tells of the delivery
        [other] = await sh(consumer.claim())
        found = await sh(q.explain(id))
        assert kinds(found) == ["put", "deliver"]
        assert found.held_since == found.timeline[-1].at
        await sh(other.release())
        if how == "verb":
            await sh(lease.ack())
        else:
            async with sh.open(lease):
                pass
    assert kinds(await sh(q.explain(id))) == ["put", "deliver", "ack"]


async def test_a_handler_of_the_body_alone_is_told(sh: Shell) -> None:
    """The fast way past leases is not taken by traced messages."""
    q = sh.queue(trace=True)
    bodies = []
    ids = await sh(q.put_many(range(3)))
    await run(sh, q.ack(lambda body: bodies.append(body)))
    assert sorted(bodies) == [0, 1, 2]
    for id in ids:
        assert kinds(await sh(q.explain(id))) == ["put", "deliver", "ack"]


async def test_what_is_not_traced_leaves_nothing(sh: Shell, redis: redis_py.Redis) -> None:
    """No mark in the element, no stream; also for whoever consumes with tracing on."""
    q = sh.queue()
    await sh(q.put(1))
    await sh(q.put_many([2]))
    assert [env.unpack(e).meta for e in redis.lrange(q.options.keys.ready, 0, -1)] == [{}, {}]
    await sh.drain(sh.queue(trace=True))
    assert not redis.exists(q.options.keys.traces)


async def test_a_share_is_marked(sh: Shell, redis: redis_py.Redis) -> None:
    """Those and only those whose id says so, however they were put."""
    q = sh.queue(trace=0.3, codec="json")
    await sh(q.put_many(range(200)))
    for n in range(50):
        await sh(q.put(n, **({"delay": 60} if n % 2 else {"id": f"mine-{n}"})))
    elements = redis.lrange(q.options.keys.ready, 0, -1) + redis.zrange(q.options.keys.later, 0, -1)
    found = [env.unpack(e) for e in elements]
    assert all(trace.is_traced(e.meta) == trace.sampled(e.id, 0.3) for e in found)
    marked = {e.id.hex() for e in found if trace.is_traced(e.meta)}
    assert 20 < len(marked) < 130
    entries = redis.xrange(q.options.keys.traces)
    assert sorted(e[b"id"].decode() for _, e in entries) == sorted(marked)


async def test_puts_of_many_tasks_are_told(sh: Shell) -> None:
    """Also where tasks of an event loop share round trips."""
    q = sh.queue(trace=True)
    if sh.name == "aio":
        ids = await asyncio.gather(*(q.put(n) for n in range(50)))
    else:
        ids = [q.put(n) for n in range(5)]
    for id in ids[::10]:
        assert kinds(await sh(q.explain(id))) == ["put"]


async def test_the_environment_decides_where_a_queue_does_not(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIQ_TRACE is for all queues of a program; an argument goes before it."""
    monkeypatch.setenv("RELIQ_TRACE", "1")
    for options, expected in (({}, True), ({"trace": 0}, False), ({"trace": False}, False)):
        q = sh.queue(**options)
        assert (kinds(await sh(q.explain(await sh(q.put(1))))) == ["put"]) is True
        found = await sh(q.explain(await sh(q.put(1))))
        assert (" by " in found.timeline[0].told) is expected


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), "much", [], b"1", 2, float("inf")])
def test_what_is_no_share_is_refused(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that names the thing, the value, and what it may be."""
    with pytest.raises(ConfigError, match=r"^queue 'q': trace=.*: which share of the messages is traced, 0 to 1"):
        reliq.Queue("q", "redis://localhost:1/0", trace=wrong)
    if not isinstance(wrong, list):
        monkeypatch.setenv("RELIQ_TRACE", "nonsense")
        with pytest.raises(ConfigError, match=r"^RELIQ_TRACE='nonsense': which share"):
            reliq.Queue("q", "redis://localhost:1/0")


async def test_lost_replies_lose_no_message(sh: Shell, proxy: FaultProxy) -> None:
    """Replies of puts and trips vanish: the message is handled once. A trip is recognised when it is
    repeated, so that its steps are told once."""
    q = sh.queue(url=proxy.url, trace=True)
    await sh(q.put(0))
    lost_puts = proxy.on(script="put", action=drop_reply(), count=2)
    ids = [await sh(q.put(n)) for n in range(1, 4)]
    bodies = []
    async with sh.open(q.consumer(until_empty=True)) as consumer:
        lost_trips = proxy.on(script="trip", action=drop_reply(), count=3)
        async for lease in sh.each(consumer):
            async with sh.open(lease):
                bodies.append(lease.body)
    assert (bodies, lost_puts.hits, lost_trips.hits) == ([0, 1, 2, 3], 2, 3)
    told = sh.queue()
    assert sum(await sh(told.size())) == 0
    for id in ids:
        assert kinds(await sh(told.explain(id))) == ["put", "deliver", "ack"]


def test_a_killed_worker_loses_no_traced_message(sh: Shell, server: Any, prefix: str) -> None:
    """kill -9 between a delivery and its ack: the step may be missing, the message comes back."""
    code = """if True:
        import os, sys, reliq
        queue = reliq.Queue("q", sys.argv[1], prefix=sys.argv[2], lease=0.5)
        leases = queue.consumer(prefetch=3).claim(3)
        os.kill(os.getpid(), 9)
    """
    q = reliq.Queue("q", server.url, prefix=prefix, lease=0.5, trace=True)
    with q:
        ids = q.put_many(range(3))
        died = subprocess.run([sys.executable, "-c", code, server.url, prefix], timeout=60)
        assert died.returncode == -9
        reaper, bodies = reliq.Reaper(q), []
        with q.consumer() as consumer:
            while len(bodies) < 3:
                reaper.run_once()
                for lease in consumer.claim(3, timeout=0.2):
                    with lease:
                        bodies.append(lease.body)
        assert sorted(bodies) == [0, 1, 2]
        assert sum(q.size()) == 0
        for id in ids:
            told = kinds(q.explain(id))
            assert told[0] == "put"
            assert told[-3:] == ["reap", "deliver", "ack"]
