"""The bell: what wakes an idle consumer, and the thread that waits for it in BLMOVE when its worker goes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis as redis_py

import reliq.aio.station
import reliq.sync.station
from reliq.identity import clock
from reliq.sync.bell import Bell
from reliq.sync.engine import Engine
from reliq.sync.link import Link
from reliq.sync.queue import Queue
from tests.conformance.shell import Shell, until
from tests.core.model import BELL
from tests.servers import RedisServer

STATIONS: dict[str, Any] = {"sync": reliq.sync.station.Station, "aio": reliq.aio.station.Station}


async def test_a_bell_is_no_message(sh: Shell, redis: redis_py.Redis) -> None:
    """What wakes an idle consumer is not counted, also when a message that went back stands before it."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        await sh(q.put(2, delay=60))  # sooner than what is due, and nothing is ready
        assert tuple(await sh(q.size())) == (0, 1, 1, 0)
        await sh(lease.release())
        assert redis.lpos(q.options.keys.ready, BELL) == 0
        assert tuple(await sh(q.size())) == (1, 0, 1, 0)


def test_stop_before_the_bell_has_connected(
    server: RedisServer, prefix: str, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that finds its queues empty stops while its bell still connects: the bell then sends no BLMOVE,
    which nobody could end, so the goodbye is quick and complete, and no thread fails."""
    connect = Link.connect

    def slowly(link: Link) -> bool:
        time.sleep(0.3 if link is engine._bells else 0)
        return connect(link)

    monkeypatch.setattr(Link, "connect", slowly)
    with Queue("emails", server.url, prefix=prefix) as queue:
        engine = Engine(queue, "test")
        engine.trip(0)
        bell = Bell(engine, lambda: None)
        started = time.monotonic()
        bell.arm(5.0)
        time.sleep(0.1)
        assert bell.stop()
        assert engine.leave(bell_ended=True)
        assert time.monotonic() - started < 1.0
        assert redis.zcard(queue.options.keys.consumers) == 0


async def test_an_answer_from_before_the_bell_rang_is_not_its_answer(
    sh: Shell, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trip was under way when the bell rang: its answer does not know what lies in the inbox, so another one is
    due at once, and not when the next bell has rung."""
    queue = sh.queue()
    keys, station = queue.options.keys, STATIONS[sh.name](0, queue.ack(print), queue, "test", lambda: None)
    monkeypatch.setattr(station.bell, "arm", lambda seconds: None)
    await sh(station.trip(1, lambda: 0))
    await sh(station.engine.begin(1))
    assert await until(lambda: redis.hget(keys.session(station.state.name), "trip") == b"2")
    redis.rpush(keys.inbox(station.state.name), b"1")  # as BLMOVE does
    station._ring()
    assert (await sh(station.trip(1, lambda: 0))).messages == []
    assert station.due_in(clock(), station.engine.answered_at, free=True) == 0.0
    assert [m.body for m in (await sh(station.trip(1, lambda: 0))).messages] == [1]
    assert not station._rang
    await sh.close(station)
