"""Puts of many tasks of an event loop share calls; each task has its own outcome all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis as redis_py

from reliq.aio import Queue
from reliq.core import beside, scripts
from reliq.core import envelope as env
from reliq.errors import OutcomeUnknown, ReliqError, WrongKeyType
from reliq.receipts import Receipt
from tests.conformance.shell import until
from tests.faults.proxy import FaultProxy, black_hole, delay_reply, delay_request, drop_reply, reset
from tests.servers import ExternalServer, RedisServer


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows put.lua by name, and counts."""
    with FaultProxy("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0])) as running:
        running.scripts["put"] = scripts.put.sha
        yield running


@pytest.fixture
async def q(proxy: FaultProxy, prefix: str) -> AsyncIterator[Queue]:
    """A queue behind it, with one message in it: connected, registered, the script loaded."""
    async with Queue("q", proxy.url, prefix=prefix, timeout=0.4) as queue:
        await queue.put("before")
        yield queue


def calls(proxy: FaultProxy) -> int:
    """Calls of scripts so far."""
    return proxy.counts[b"EVALSHA"]


def ready(q: Queue, redis: redis_py.Redis) -> list[Any]:
    """The bodies that are ready, in order, without the first."""
    elements: Any = redis.lrange(q.options.keys.ready, 0, -1)
    return [body(q, env.unpack(element), redis) for element in elements[::-1]][1:]


def body(q: Queue, envelope: env.Envelope, redis: redis_py.Redis) -> Any:
    """Decoded, also if it lies beside the list."""
    ticket = beside.ticket_of(envelope.meta)
    data: Any = envelope.body if ticket is None else redis.get(beside.key_of(q.options.keys, ticket))
    return q.options.codec.decode(data)


async def outcomes(q: Queue, bodies: range) -> list[Any]:
    """Put all of them at once, each by a task of its own: receipts and errors."""
    return await ended(*(asyncio.create_task(q.put(body)) for body in bodies))


async def ended(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Results and errors. No put waits for ever."""
    _, pending = await asyncio.wait(tasks, timeout=10)
    assert not pending
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_put_at_once_goes_at_once(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """One call, in the order in which the tasks came; each has its own id."""
    before = calls(proxy)
    receipts = await outcomes(q, range(50))
    assert calls(proxy) == before + 1
    assert len(set(receipts)) == 50
    assert all(type(receipt) is type(receipts[0]) is Receipt for receipt in receipts)
    assert ready(q, redis) == list(range(50))


async def test_what_comes_meanwhile_goes_next(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """While a call is under way, others gather; they go together when it has ended."""
    proxy.on(script="put", action=delay_reply(0.04))
    before = calls(proxy)
    first = asyncio.create_task(q.put(0))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(q.put(n)) for n in range(1, 20)]
    await ended(first, *rest)
    assert calls(proxy) == before + 2
    assert ready(q, redis) == list(range(20))


async def test_a_slow_call_does_not_hold_up_the_next(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Who waits for a call that takes long goes on another connection; both succeed."""
    proxy.on(script="put", action=delay_reply(0.35))
    slow = asyncio.create_task(q.put("slow"))
    await asyncio.sleep(0.01)
    started = time.monotonic()
    await q.put("quick")
    assert time.monotonic() - started < 0.3
    assert not slow.done()
    await slow
    assert ready(q, redis) == ["slow", "quick"]


async def test_what_a_call_may_carry(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Never more than 1,000 or 256 kB at once; one that is larger goes alone."""
    before = calls(proxy)
    await outcomes(q, range(1500))
    assert calls(proxy) == before + 2
    sizes = [200_000, 50_000, 50_000, 300_000, 1]
    await asyncio.gather(*(q.put("x" * size) for size in sizes))
    assert calls(proxy) == before + 2 + 4
    assert [len(body) for body in ready(q, redis)[1500:]] == sizes


async def test_what_is_special_goes_alone(q: Queue, proxy: FaultProxy) -> None:
    """An id of one's own, a delay: a call each."""
    before = calls(proxy)
    await asyncio.gather(q.put(1), q.put(2, id="a"), q.put(3, id="a"), q.put(4, delay=60), q.put(5))
    assert calls(proxy) == before + 1 + 3
    assert tuple(await q.size()) == (4, 0, 1, 0)


async def test_refused_together(q: Queue, redis: redis_py.Redis) -> None:
    """Each task raises an error of its own, with the cause; nothing is in; then all goes on."""
    redis.rename(q.options.keys.ready, q.options.keys.ready + ":kept")
    redis.set(q.options.keys.ready, "no list")
    errors = await outcomes(q, range(10))
    assert {type(error) for error in errors} == {WrongKeyType}
    assert len({id(error) for error in errors}) == 10
    assert all(isinstance(error.__cause__, redis_py.ResponseError) for error in errors)
    redis.delete(q.options.keys.ready)
    redis.rename(q.options.keys.ready + ":kept", q.options.keys.ready)
    await outcomes(q, range(10, 12))
    assert ready(q, redis) == [10, 11]


async def test_one_bad_body_is_its_own_matter(q: Queue, redis: redis_py.Redis) -> None:
    """What cannot be encoded is in no call."""
    found = await asyncio.gather(q.put(1), q.put(object()), q.put(2), return_exceptions=True)
    assert [isinstance(outcome, ReliqError) for outcome in found] == [False, True, False]
    assert ready(q, redis) == [1, 2]


async def test_lost_reply(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """The call is repeated by itself, and there is one copy of each."""
    rule = proxy.on(script="put", action=drop_reply())
    receipts = await outcomes(q, range(10))
    assert rule.hits == 1
    assert ready(q, redis) == list(range(10))
    assert len(set(receipts)) == 10


@pytest.mark.parametrize("executed", [True, False])
async def test_unknown_together(q: Queue, proxy: FaultProxy, redis: redis_py.Redis, executed: bool) -> None:
    """Each error names its own put and replays the call: one copy of each, in order, however many repeat it, and
    whatever was put meanwhile."""
    rule = proxy.on(script="put", action=drop_reply() if executed else reset(), count=None)
    errors = await outcomes(q, range(10))
    rule.remove()
    assert all(type(error) is OutcomeUnknown for error in errors)
    assert len({id(error) for error in errors}) == 10
    assert len({id(error.replay) for error in errors}) == 1
    assert ready(q, redis) == (list(range(10)) if executed else [])
    await q.put("meanwhile")
    assert await q.repeat(errors[7]) == errors[7].ids
    again = await asyncio.gather(*(q.repeat(error) for error in errors))
    assert [found for [found] in again] == [id for error in errors for id in error.ids]
    assert ready(q, redis) == [*range(10), "meanwhile"] if executed else ["meanwhile", *range(10)]
    elements: Any = redis.lrange(q.options.keys.ready, 0, -1)
    assert {found for [found] in again} < {env.unpack(element).id.hex() for element in elements}


async def test_each_call_has_its_own_outcome(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """One whose reply never comes does not spoil those before and behind it."""
    first = asyncio.create_task(q.put("first"))
    await first
    rule = proxy.on(script="put", action=black_hole("reply"), where=lambda words: b"lost" in words[-1], count=None)
    lost = asyncio.create_task(q.put("lost"))
    await asyncio.sleep(0.01)
    assert await asyncio.gather(*(q.put(n) for n in range(3)))
    with pytest.raises(OutcomeUnknown) as caught:
        await lost
    rule.remove()
    assert caught.value.ids == await q.repeat(caught.value)
    assert ready(q, redis) == ["first", "lost", 0, 1, 2]


async def test_cancelled_while_it_waits(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """A put that still waits for the call under way is taken back; the others go."""
    proxy.on(script="put", action=delay_reply(0.04))
    tasks = [asyncio.create_task(q.put(0))]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(q.put(n)) for n in range(1, 5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    found = await ended(*tasks)
    assert isinstance(found[2], asyncio.CancelledError)
    assert ready(q, redis) == [0, 1, 3, 4]


async def test_cancelled_under_way(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """A task that is cancelled while its put is under way disturbs neither the others of the call nor the
    connection."""
    rule = proxy.on(script="put", action=delay_request(0.1))
    tasks = [asyncio.create_task(q.put(n)) for n in range(3)]
    assert await until(lambda: rule.hits)
    tasks[1].cancel()
    found = await ended(*tasks)
    assert isinstance(found[1], asyncio.CancelledError)
    assert [found[0], found[2]] == [task.result() for task in (tasks[0], tasks[2])]
    connections = proxy.connections
    await q.put(3)
    assert ready(q, redis) == [0, 1, 2, 3]
    assert proxy.connections == connections


async def test_when_every_task_is_cancelled(q: Queue, proxy: FaultProxy) -> None:
    """As at the end of a loop: every put ends, nothing waits for ever, and the queue can be used again."""
    proxy.on(script="put", action=delay_reply(0.3))
    tasks = [asyncio.create_task(q.put(0))]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(q.put(n)) for n in range(1, 5)]
    await asyncio.sleep(0.01)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await ended(*tasks)
    assert all(task.cancelled() for task in tasks)
    assert await q.put("again")


async def test_when_the_call_alone_is_cancelled(q: Queue, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Its puts end with it, those that wait go on without it."""
    proxy.on(script="put", action=delay_request(0.3))
    under_way = asyncio.create_task(q.put(0))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(q.put(1))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task(), under_way, waiting}:
        task.cancel()
    await ended(under_way, waiting)
    assert under_way.cancelled()
    assert waiting.result()
    assert 1 in ready(q, redis)


async def test_server_away(proxy: FaultProxy, prefix: str) -> None:
    """All of them are told within the timeout, however many wait for each other."""
    async with Queue("q", proxy.url, prefix=prefix, timeout=0.5) as q:
        await q.put(0)
        proxy.partition(refuse=True)
        proxy.reset_all()
        started = time.monotonic()
        tasks = []
        for n in range(40):
            tasks.append(asyncio.create_task(q.put(n)))
            await asyncio.sleep(0.005)
        found = await ended(*tasks)
        assert all(isinstance(outcome, ReliqError) for outcome in found)
        assert time.monotonic() - started < 8  # one after the other they would take 20
        proxy.heal()
        assert await q.put("again")
