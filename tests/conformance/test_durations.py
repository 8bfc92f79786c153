"""Seconds are numbers: whoever gives a timedelta is told, at the call, what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import reliq
import reliq.aio
import reliq.testing
from reliq.errors import ConfigError
from tests.conformance.shell import Shell

MINUTE: Any = timedelta(minutes=1)

QUEUE: dict[str, Callable[[Any], Any]] = {
    "put, delay": lambda q: q.put(1, delay=MINUTE),
    "put, expires": lambda q: q.put(1, expires=MINUTE),
    "put, result": lambda q: q.put(1, result=MINUTE),
    "put_many, delay": lambda q: q.put_many([1], delay=MINUTE),
    "schedule, every": lambda q: q.schedule("n", 1, every=MINUTE),
    "schedule, jitter": lambda q: q.schedule("n", 1, every=60, jitter=MINUTE),
    "reschedule": lambda q: q.reschedule("00" * 16, delay=MINUTE),
    "result": lambda q: q.result("00" * 16, timeout=MINUTE),
    "ack, timeout": lambda q: q.ack(timeout=MINUTE)(print),
    "ack, expected": lambda q: q.ack(expected=MINUTE)(print),
    "ack, wait": lambda q: q.ack(batch=10, wait=MINUTE)(print),
    "exclusive": lambda q: q.exclusive(wait=MINUTE),
}

ALONE: dict[str, Callable[[], Any]] = {
    "Queue, lease": lambda: reliq.Queue("q", lease=MINUTE),
    "Queue, block": lambda: reliq.Queue("q", block=MINUTE),
    "Queue, timeout": lambda: reliq.aio.Queue("q", timeout=MINUTE),
    "Settings": lambda: reliq.Settings(timeout=MINUTE),
    "Settings, a mapping": lambda: reliq.Queue("q", settings={"block": MINUTE}),
    "Retry, wait": lambda: reliq.Retry(wait=MINUTE),
    "Retry, waits": lambda: reliq.Retry(wait=[1, MINUTE]),
    "Retry, max_age": lambda: reliq.Retry(max_age=MINUTE),
    "wait_table": lambda: reliq.wait_table(1, MINUTE),
    "Unique": lambda: reliq.Unique("k", seconds=MINUTE),
    "Group, grace": lambda: reliq.Group("g", grace=MINUTE),
    "Group, max_delay": lambda: reliq.Group("g", max_delay=MINUTE),
    "idempotent": lambda: reliq.idempotent(key="id", ttl=MINUTE),
    "RetryAfter": lambda: reliq.RetryAfter(MINUTE),
    "Release": lambda: reliq.Release(seconds=MINUTE),
    "Reaper": lambda: reliq.Reaper(reliq.Queue("q"), interval=MINUTE),
    "Reaper, aio": lambda: reliq.aio.Reaper(reliq.aio.Queue("q"), interval=MINUTE),
    "Worker": lambda: reliq.Worker(reliq.Queue("q").ack(print), grace=MINUTE),
    "travel": lambda: reliq.testing.travel(reliq.Queue("q"), MINUTE),
}

SAYS = r"datetime\.timedelta\(seconds=60\).*total_seconds\(\)"


@pytest.mark.parametrize("name", QUEUE)
async def test_a_queue_says_what_to_do(sh: Shell, name: str) -> None:
    """In the argument's own error."""
    with pytest.raises(ConfigError, match=SAYS):
        await sh(QUEUE[name](sh.queue()))


@pytest.mark.parametrize("name", ALONE)
def test_other_arguments_say_it_too(name: str) -> None:
    """Nothing is connected for it."""
    with pytest.raises(ConfigError, match=SAYS):
        ALONE[name]()


async def test_a_lease_and_a_claim_say_it(sh: Shell) -> None:
    """And the message is in hand as before."""
    queue = sh.queue()
    await sh(queue.put(1))
    async with sh.open(queue.consumer()) as consumer:
        with pytest.raises(ConfigError, match=SAYS):
            await sh(consumer.claim(1, timeout=MINUTE))
        [lease] = await sh(consumer.claim(1, timeout=20))
        with pytest.raises(ConfigError, match=SAYS):
            await sh(lease.retry(MINUTE))
        await sh(lease.ack())
