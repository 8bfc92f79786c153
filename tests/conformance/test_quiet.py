"""While Redis is away nothing says so again and again: a line when it goes, a line when it is back."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter

import pytest

from tests.conformance.shell import Shell, until
from tests.conformance.test_worker import at_work
from tests.servers import RedisServer


async def test_an_outage_is_a_few_lines(
    own_sh: Shell, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a worker at work and of an open consumer, with messages in hand, that try all the time."""
    caplog.set_level(logging.INFO)
    sh, gate = own_sh, threading.Event()
    q = sh.queue(lease=4, block=0.5, timeout=0.5)
    await sh(q.put_many(range(3)))
    async with sh.open(q.consumer()) as consumer:
        [lease] = await sh(consumer.claim())
        worker = sh.Worker(q.ack(lambda body: gate.wait(30)), concurrency=1, signals=False)
        async with at_work(sh, worker):
            assert await until(lambda: "worker started" in caplog.text)
            await asyncio.sleep(0.5)
            caplog.clear()
            own_server.stop()
            await asyncio.sleep(4)
            during = Counter(r.getMessage() for r in caplog.records if r.levelno >= logging.INFO)
            own_server.start()
            gate.set()
            assert await until(lambda: caplog.text.count("Redis answers again") >= 2, seconds=20)
        await sh(lease.release())
    assert 1 <= sum(during.values()) <= 6, during
    assert max(during.values()) <= 2, during
