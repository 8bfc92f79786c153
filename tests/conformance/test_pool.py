"""The connections of a queue: how many, for how long, and what is done with them while nobody uses them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core.command import Command
from reliq.errors import PoolExhausted
from tests.conformance.shell import Shell, until
from tests.faults.proxy import FaultProxy, black_hole, drop_reply, reply_error
from tests.servers import ExternalServer, RedisServer


def connections(server: RedisServer) -> set[str]:
    """The ids of those that a queue has, by their name."""
    with server.client() as client:
        return {each["id"] for each in client.client_list() if each["name"] == "reliq"}


def held(sh: Shell, queue: Any, seconds: float) -> asyncio.Task[Any]:
    """Use a connection for as long as that, beside the test: Redis does not answer before."""
    return sh.start(queue.links.run, Command("BLPOP", (f"{queue.options.keys.ready}:nothing",), (seconds,)))


def client_id(queue: Any) -> Any:
    """Which connection it has taken."""
    return queue.links.run(Command("CLIENT", (), ("ID",)))


def behind(server: RedisServer | ExternalServer) -> FaultProxy:
    return FaultProxy("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0]))


async def test_no_more_than_pool_size(own_sh: Shell, own_server: RedisServer) -> None:
    """The others wait in turn, and all get through."""
    q = own_sh.queue(settings={"pool_size": 3})
    tasks = [held(own_sh, q, 0.2) for _ in range(9)]
    seen: set[str] = set()
    while not all(task.done() for task in tasks):
        seen |= connections(own_server)
        await asyncio.sleep(0.02)
    await asyncio.gather(*tasks)
    assert len(seen) == 3
    assert connections(own_server) == seen


async def test_who_waits_too_long_is_refused(own_sh: Shell, own_server: RedisServer) -> None:
    """After pool_wait: nothing was sent, and one line says what to do. The one that is in use goes on."""
    q = own_sh.queue(settings={"pool_size": 1, "pool_wait": 0.2})
    await own_sh(q.ping())
    holder = held(own_sh, q, 1.5)
    with own_server.client() as client:
        assert await until(lambda: client.info("clients")["blocked_clients"] == 1)
    started = time.monotonic()
    with pytest.raises(
        PoolExhausted, match=r"all 1 \(pool_size\) .* 0.2 s \(pool_wait\).* Raise pool_size"
    ) as caught:
        await own_sh(q.put(1))
    assert 0.15 < time.monotonic() - started < 1.2
    assert isinstance(caught.value, reliq.Refused)
    assert not isinstance(caught.value, reliq.Unavailable)  # which would be tried again
    assert str(own_server.port) in str(caught.value)
    await holder
    await own_sh(q.put(2))
    assert await own_sh.drain(own_sh.queue()) == [2]


async def test_nobody_is_overtaken_for_ever(own_sh: Shell) -> None:
    """Those who give a connection back and want it again at once do not starve those who wait."""
    q = own_sh.queue(settings={"pool_size": 1, "pool_wait": 1})
    over = False

    async def greedy() -> None:
        while not over:
            await own_sh(q.size())

    def greedy_thread() -> None:
        while not over:
            q.size()

    first = [own_sh.start(greedy_thread) if own_sh.name == "sync" else asyncio.create_task(greedy()) for _ in "ab"]
    try:
        for n in range(20):
            await own_sh.start(q.put, n)
    finally:
        over = True
        await asyncio.gather(*first)


async def test_who_gives_up_leaves_no_gap(own_sh: Shell) -> None:
    """A task that is cancelled while it waits, or just when it is given one, takes none away."""
    if own_sh.name == "sync":
        pytest.skip("a thread cannot be cancelled")
    q = own_sh.queue(settings={"pool_size": 2, "pool_wait": 5})
    for pause in [0, 0.001, 0.01] * 15:
        tasks = [asyncio.create_task(client_id(q)) for _ in range(8)]
        await asyncio.sleep(pause)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    both = [held(own_sh, q, 0.2) for _ in range(2)]
    await asyncio.wait_for(asyncio.gather(*both), 2)


async def test_warm_connections(own_sh: Shell, own_server: RedisServer) -> None:
    """Making a queue connects nothing; its first use opens as many as are to be kept."""
    q = own_sh.queue(settings={"min_idle": 3})
    assert connections(own_server) == set()
    await own_sh(q.ping())
    warm = connections(own_server)
    assert len(warm) == 3
    assert str(await own_sh(client_id(q))) in warm
    await own_sh.close(q)
    assert await until(lambda: connections(own_server) == set())


async def test_warming_up_fails_as_the_command_would(own_sh: Shell, own_server: RedisServer) -> None:
    """With the same error, and the next use tries it again."""
    q = own_sh.queue(settings={"min_idle": 3})
    own_server.stop()
    with pytest.raises(reliq.Unavailable, match="cannot reach Redis"):
        await own_sh(q.put(1))
    own_server.start()
    await own_sh(q.put(1))
    assert len(connections(own_server)) == 3


async def test_what_is_not_needed_is_closed(own_sh: Shell, own_server: RedisServer) -> None:
    """Of those that a rush has opened, all that rest for idle_timeout, but min_idle; the busy one stays."""
    q = own_sh.queue(settings={"idle_timeout": 0.5, "idle_check": 0.1, "min_idle": 2})
    tasks = [held(own_sh, q, 0.2) for _ in range(6)]
    await asyncio.gather(*tasks)
    assert len(connections(own_server)) == 6
    deadline = time.monotonic() + 8
    while len(connections(own_server)) > 2 and time.monotonic() < deadline:
        await own_sh(q.size())
        await asyncio.sleep(0.05)
    assert len(connections(own_server)) == 2
    await asyncio.gather(*[held(own_sh, q, 0.1) for _ in range(16)])  # there is room again for all


async def test_the_server_ends_idle_ones(own_sh: Shell, own_server: RedisServer) -> None:
    """Its own timeout is no failure of ours: the put behind it goes through on a new connection, once."""
    q = own_sh.queue()
    await own_sh(q.put(1))
    with own_server.client() as client:
        client.config_set("timeout", 1)
        assert await until(lambda: connections(own_server) == set())
    await own_sh(q.put(2))
    assert (await own_sh(q.size())).ready == 2


async def test_a_silent_end_is_found_by_a_ping(sh: Shell, server: RedisServer | ExternalServer) -> None:
    """A connection whose other end has gone without a word (a NAT forgets it) is found out before it is used, by a
    question that nobody misses: no put of unknown outcome, and it does not take its whole timeout."""
    with behind(server) as proxy:
        said = {"idle_check": 0.3, "connect_timeout": 0.5, "retries": 0}
        q = sh.queue(url=proxy.url, settings=said)
        await sh(q.put(1))
        await asyncio.sleep(0.4)
        rule = proxy.on(command="PING", action=black_hole())
        started = time.monotonic()
        await sh(q.put(2))
        assert rule.hits == 1
        assert time.monotonic() - started < 3
        rule.remove()
        assert (await sh(q.size())).ready == 2


async def test_one_that_was_just_used_is_not_asked(sh: Shell, server: RedisServer | ExternalServer) -> None:
    """No round trip more, for as long as idle_check says; a refused PING is an answer too."""
    with behind(server) as proxy:
        q = sh.queue(url=proxy.url)
        rule = proxy.on(command="PING", action=reply_error(b"-NOPERM no\r\n"))
        for n in range(5):
            await sh(q.put(n))
        assert rule.hits == 0
        q = sh.queue(url=proxy.url, settings={"idle_check": 0.2})
        first = await sh(client_id(q))
        await asyncio.sleep(0.3)
        assert await sh(client_id(q)) == first
        assert rule.hits == 1


async def test_an_old_one_is_made_anew(own_sh: Shell, own_server: RedisServer) -> None:
    """Between two commands, however busy it is; one of a worker too. Nothing fails by it."""
    q = own_sh.queue(settings={"max_age": 0.5})
    seen = set()
    deadline = time.monotonic() + 1.6
    while time.monotonic() < deadline:
        seen.add(await own_sh(client_id(q)))
        await own_sh(q.put(1))
    assert 3 <= len(seen) <= 5
    done = []
    worker = own_sh.Worker(q.ack(done.append), concurrency=2, until_empty=True, signals=False)
    await own_sh.start(worker.run)
    assert set(done) == {1}
    assert (await own_sh(q.size())) == (0, 0, 0, 0)
    calm = own_sh.queue("calm")
    assert len({await own_sh(client_id(calm)) for _ in range(50)}) == 1


async def test_retries_are_counted(sh: Shell, server: RedisServer | ExternalServer, redis: redis_py.Redis) -> None:
    """What is safe to repeat is repeated so often and no more; without a number, for as long as timeout says."""
    with behind(server) as proxy:
        for retries, tries in ((0, 1), (1, 2), (3, 4)):
            q = sh.queue(url=proxy.url, settings={"retries": retries, "backoff_to": 0.01})
            await sh(q.put(0))
            rule = proxy.on(command="EVALSHA", action=reply_error(b"-LOADING not yet\r\n"), count=None)
            with pytest.raises(reliq.Unavailable):
                await sh(q.put(1))
            assert rule.hits == tries
            rule.remove()
        q = sh.queue(url=proxy.url, timeout=2, settings={"backoff_from": 0.02, "backoff_to": 0.02})
        await sh(q.put(0))
        rule = proxy.on(command="EVALSHA", action=drop_reply(), count=5)
        await sh(q.put(1))
        assert rule.hits == 5
        assert (await sh(q.size())).ready == 5


async def test_times_of_the_connection_that_blocks(sh: Shell) -> None:
    """It waits for an answer longer than Redis may block, by what is said, or by timeout."""
    assert sh.queue(block=2, timeout=1).settings.patience == 3
    assert sh.queue(settings={"block": 2, "read_timeout": 4}).settings.patience == 4
    q = sh.queue(settings={"block": 1.0, "read_timeout": 2.0, "timeout": 0.3})
    async with sh.open(q.consumer()) as consumer:
        task = sh.start(consumer.claim, timeout=1.5)
        await asyncio.sleep(0.8)
        await sh(q.put("late"))
        [lease] = await task
        assert lease.body == "late"
        await sh(lease.ack())
