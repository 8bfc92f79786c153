"""Claiming: how many, in which order, what is no envelope, what cannot be read."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.errors import ConfigError, ConsumerClosed, WrongKeyType
from reliq.identity import clock
from tests.conformance.shell import Shell, dead_letters, events, expire, until


async def test_claim_gives_up_to_n(sh: Shell) -> None:
    """claim(n) hands over what is there, at most n, the oldest first."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3, 4]))
    async with sh.open(q.consumer()) as c:
        first = await sh(c.claim(3))
        second = await sh(c.claim(3))
        assert [[lease.body for lease in part] for part in (first, second)] == [[1, 2, 3], [4]]
        assert tuple(await sh(q.size())) == (0, 4, 0, 0)
        for lease in first + second:
            assert (lease.attempt, lease.deliveries, lease.fence, lease.queue) == (1, 1, 1, "q")
            await sh(lease.ack())
            assert lease.settled
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_claim_times_out_with_nothing(sh: Shell) -> None:
    """claim(timeout=) gives an empty list after that time, not much later; 0 does not wait."""
    q = sh.queue()
    async with sh.open(q.consumer()) as c:
        for timeout in (0, 0.3):
            started = time.monotonic()
            assert await sh(c.claim(timeout=timeout)) == []
            assert timeout <= time.monotonic() - started < timeout + 0.5


async def test_idle_consumer_gets_a_new_message_at_once(sh: Shell) -> None:
    """A message put while a consumer waits arrives in milliseconds, by a put or by a foreign LPUSH."""
    q = sh.queue(block=5)
    async with sh.open(q.consumer()) as c:
        for push in (lambda: q.put(1), None):
            task = sh.start(c.claim, timeout=10)
            await asyncio.sleep(0.15)
            started = time.monotonic()
            if push is not None:
                await sh(push())
            else:
                await sh(sh.queue(codec="bytes").put(b"1"))
            (lease,) = await task
            assert time.monotonic() - started < 1
            await sh(lease.ack())


async def test_idle_consumer_outlasts_its_block(sh: Shell) -> None:
    """A consumer that has asked several times in vain is still there for the next message."""
    q = sh.queue(block=0.1, lease=0.6)
    async with sh.open(q.consumer()) as c:
        task = sh.start(c.claim, timeout=10)
        await asyncio.sleep(1.0)
        await sh(q.put("x"))
        (lease,) = await task
        await sh(lease.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_prefetch_claims_ahead(sh: Shell) -> None:
    """prefetch=n takes n in one trip and hands them over one by one; the rest stays ready."""
    q = sh.queue()
    await sh(q.put_many(range(10)))
    async with sh.open(q.consumer(prefetch=4)) as c:
        (lease,) = await sh(c.claim())
        assert lease.body == 0
        assert tuple(await sh(q.size())) == (6, 4, 0, 0)
    assert await sh.drain(q) == list(range(10))
    with pytest.raises(ConfigError):
        q.consumer(prefetch=0)


async def test_until_empty_stops_and_for_goes_on(sh: Shell) -> None:
    """until_empty=True ends at empty; a consumer without it takes what comes later too."""
    q = sh.queue()
    assert await sh.drain(q) == []
    await sh(q.put_many([1, 2]))
    assert await sh.drain(q, prefetch=5) == [1, 2]
    seen = []
    async with sh.open(q.consumer()) as c:
        await sh(q.put(3))
        async for lease in sh.each(c):
            async with sh.open(lease):
                seen.append(lease.body)
            if lease.body == 3:
                await sh(q.put(4))
            else:
                break
    assert seen == [3, 4]


async def test_close_gives_back_in_order(sh: Shell) -> None:
    """What was not settled goes back to the head, in order, uncounted, with a larger fence."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3, 4, 5]))
    async with sh.open(q.consumer(prefetch=4)) as c:
        one, two = await sh(c.claim(2))
        await sh(two.ack())
    assert not one.settled
    assert (await sh(q.size())) == (4, 0, 0, 0)
    async with sh.open(q.consumer()) as c:
        leases = await sh(c.claim(4))
        assert [lease.body for lease in leases] == [1, 3, 4, 5]
        assert (leases[0].attempt, leases[0].deliveries) == (1, 1)
        assert leases[0].fence == 2
    assert await sh.drain(q) == [1, 3, 4, 5]


async def test_closed_consumer_says_so(sh: Shell, redis: redis_py.Redis) -> None:
    """After close every use raises ConsumerClosed; closing twice is no error; nobody stays registered."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
    await sh.close(c)
    with pytest.raises(ConsumerClosed):
        await sh(c.claim())
    with pytest.raises(ConsumerClosed):
        await sh(lease.ack())
    assert [lease async for lease in sh.each(c)] == []
    assert redis.zcard(q.options.keys.consumers) == 0


async def test_several_claimers_share_a_consumer(sh: Shell) -> None:
    """Threads or tasks that claim from one consumer at once each get a message of their own."""
    q = sh.queue(block=2)
    async with sh.open(q.consumer()) as c:
        tasks = [sh.start(c.claim, timeout=10) for _ in range(4)]
        await asyncio.sleep(0.2)
        await sh(q.put_many(range(4)))
        leases = [lease for task in tasks for lease in await task]
        assert sorted(lease.body for lease in leases) == [0, 1, 2, 3]
        await asyncio.gather(*(sh.start(lease.ack) for lease in leases))
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_what_nobody_asks_for_is_not_kept(sh: Shell, redis: redis_py.Redis) -> None:
    """A message claimed along with an ack goes back if nothing is in hand and nobody asks for it."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        await sh(lease.ack())
        assert await until(lambda: redis.llen(q.options.keys.ready) == 1)
        assert tuple(await sh(q.size())) == (1, 0, 0, 0)
        (lease,) = await sh(c.claim(timeout=5))
        assert (lease.body, lease.deliveries) == (2, 1)
        await sh(lease.ack())


# -- foreign elements -------------------------------------------------------------------------------------


async def test_what_was_claimed_when_somebody_was_interrupted_goes_back(
    sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the answer and the lease, and the consumer stays open: nobody has the message in hand."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    async with sh.open(q.consumer(prefetch=2)) as c:
        pop = c._pop

        def interrupted(n: int) -> Any:
            pop(n)
            raise RuntimeError("as Ctrl-C would")

        monkeypatch.setattr(c, "_pop", interrupted)
        with pytest.raises(RuntimeError):
            await sh(c.claim(timeout=0))
        monkeypatch.setattr(c, "_pop", pop)
        found = []
        for _ in range(2):
            for lease in await sh(c.claim(timeout=5)):
                found.append(lease.body)
                await sh(lease.ack())
        assert sorted(found) == [1, 2]


async def test_foreign_elements_are_consumed(sh: Shell, redis: redis_py.Redis) -> None:
    """A plain LPUSH of JSON is a message: it gets an id, keeps its order, and is acked."""
    q = sh.queue()
    redis.lpush(q.options.keys.ready, b'{"a": 1}', b"[2]")
    await sh(q.put(3))
    async with sh.open(q.consumer(prefetch=3)) as c:
        leases = await sh(c.claim(3))
        assert [lease.body for lease in leases] == [{"a": 1}, [2], 3]
        assert len({lease.id for lease in leases}) == 3
        assert [lease.attempt for lease in leases] == [1, 1, 1]
        for lease in leases:
            await sh(lease.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_identical_foreign_elements_are_different_messages(sh: Shell, redis: redis_py.Redis) -> None:
    """Three equal raw elements: each has its own id, and an ack removes exactly one."""
    q = sh.queue(codec="bytes")
    redis.lpush(q.options.keys.ready, b"same", b"same", b"same")
    async with sh.open(q.consumer()) as c:
        leases = await sh(c.claim(3))
        assert len({lease.id for lease in leases}) == 3
        await sh(leases[1].ack())
        assert (await sh(q.size())).doing == 2
        await sh(leases[0].retry(delay=60))
        await sh(leases[2].bury("no"))
    assert tuple(await sh(q.size())) == (0, 0, 1, 1)


async def test_identical_envelopes_are_delivered_one_after_the_other(sh: Shell, redis: redis_py.Redis) -> None:
    """Two byte-identical envelopes (a copied element): both are delivered, the second once the first is done."""
    q = sh.queue()
    await sh(q.put("twin"))
    (element,) = redis.lrange(q.options.keys.ready, 0, -1)
    redis.lpush(q.options.keys.ready, element)
    async with sh.open(q.consumer()) as c:
        (first,) = await sh(c.claim(2))
        assert (await sh(q.size())).doing == 2
        await sh(first.ack())
        (second,) = await sh(c.claim(2, timeout=5))
        assert second.body == "twin"
        await sh(second.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_existing_list_is_adopted(sh: Shell, redis: redis_py.Redis) -> None:
    """key= consumes an existing list, whatever its name, while its producers go on."""
    for key in (f"{sh.prefix}:{{tag}}:old list", f"{sh.prefix}-plain"):
        redis.rpush(key, b"1", b"2")
        q = sh.queue("adopted", key=key)
        redis.lpush(key, b"0")
        await sh(q.put(9))
        assert await sh.drain(q) == [2, 1, 0, 9]
        assert redis.exists(key) == 0


# -- what cannot be read ----------------------------------------------------------------------------------


async def test_undecodable_is_dead_lettered_with_its_reason(sh: Shell, redis: redis_py.Redis) -> None:
    """What no codec can read is kept in dead, with the cause, and its neighbours are handled."""
    q = sh.queue()
    await sh(q.put("before"))
    redis.lpush(q.options.keys.ready, b"no json", b"", b"\xff\xfe", b"\xc1rlq\x01half an envelope")
    await sh(q.put("after"))
    assert await sh.drain(q, prefetch=3) == ["before", "after"]
    assert tuple(await sh(q.size())) == (0, 0, 0, 4)
    for note, element in dead_letters(redis, q):
        assert note["cause"] == "UNDECODABLE"
        assert note["error"]
        assert env.unpack(element).id.hex() == note["id"]
    bodies = {env.unpack(element).body for _, element in dead_letters(redis, q)}
    assert bodies == {b"no json", b"", b"\xff\xfe", b"\xc1rlq\x01half an envelope"}
    assert events(redis, q).count(("bury", "UNDECODABLE")) == 4


async def test_bells_are_no_messages(sh: Shell, redis: redis_py.Redis) -> None:
    """The element that wakes an idle consumer is dropped, whoever finds it."""
    q = sh.queue()
    redis.lpush(q.options.keys.ready, b"\xc1rlq\0", b"1", b"\xc1rlq\0")
    assert await sh.drain(q) == [1]
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_unsupported_version_is_kept_as_it_is(sh: Shell, redis: redis_py.Redis) -> None:
    """An envelope of a later release dies as UNSUPPORTED_VERSION, unchanged."""
    q = sh.queue()
    element = bytearray(env.pack(b"i" * 16, b"\xc0"))
    element[4] = 9
    redis.lpush(q.options.keys.ready, bytes(element))
    await sh(q.put(1))
    assert await sh.drain(q) == [1]
    ((note, kept),) = dead_letters(redis, q)
    assert note["cause"] == "UNSUPPORTED_VERSION"
    assert kept == bytes(element)


async def test_wrong_length_and_unknown_codec_die_as_such(sh: Shell, redis: redis_py.Redis) -> None:
    """A valid checksum with a wrong length, and a codec that nobody knows here, are dead-lettered."""
    q = sh.queue()
    long = bytearray(env.pack(b"l" * 16, b"\xc0"))
    long[8] += 1
    redis.lpush(q.options.keys.ready, bytes(long), env.pack(b"c" * 16, b"?", {"c": "cbor"}))
    assert await sh.drain(q) == []
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["BAD_LENGTH", "UNDECODABLE"]


async def test_unknown_meta_is_preserved(sh: Shell, redis: redis_py.Redis) -> None:
    """Meta keys of another release survive a retry."""
    q = sh.queue()
    redis.lpush(q.options.keys.ready, env.pack(b"m" * 16, b"\xc0", {"zz": [1]}))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        await sh(lease.retry(delay=60))
    (element,) = redis.zrange(q.options.keys.later, 0, -1)
    assert env.unpack(element).meta["zz"] == [1]


@pytest.mark.parametrize("part", ["ready", "later", "dead", "consumers", "doing", "inbox", "session", "stats"])
async def test_wrong_type_of_a_key_loses_nothing(sh: Shell, redis: redis_py.Redis, part: str) -> None:
    """A key of the queue that holds something else: WrongKeyType, and what was ready is ready."""
    q = sh.queue()
    await sh(q.put("kept"))
    keys = q.options.keys
    async with sh.open(q.consumer()) as c:
        key = getattr(keys, part)
        key = key(c.name) if callable(key) else key
        before = redis.dump(key) if redis.exists(key) else None
        kept = redis.lrange(keys.ready, 0, -1)
        redis.delete(key)
        redis.set(key, "mine")
        with pytest.raises(WrongKeyType) as caught:
            await sh(c.claim(timeout=1))
        assert "WRONGTYPE" in str(caught.value)
        redis.delete(key)
        if before is not None:
            redis.restore(key, 0, before)
        assert redis.lrange(keys.ready, 0, -1) == kept
    assert await sh.drain(q) == ["kept"]


async def test_consumer_of_a_wrong_key_says_so_at_once(sh: Shell, redis: redis_py.Redis) -> None:
    """Opening a consumer on a key of another type raises, and leaves nothing behind."""
    q = sh.queue(key=f"{sh.prefix}-string")
    redis.set(f"{sh.prefix}-string", "mine")
    with pytest.raises(reliq.errors.WrongKeyType):
        async with sh.open(q.consumer()):
            pass
    assert redis.get(f"{sh.prefix}-string") == b"mine"


@pytest.mark.parametrize("ran", [True, False])
async def test_until_empty_does_not_end_on_an_older_answer(sh: Shell, redis: redis_py.Redis, ran: bool) -> None:
    """One to a trip that did not ask for messages, or before there were any."""
    queue = sh.queue()
    async with sh.open(queue.consumer(until_empty=True)) as c:
        if ran:
            await lose_an_answer(sh, redis, queue, c)
        else:
            c.state.trip(0, clock())  # made, and never sent
        await sh(queue.put(1))
        bodies = []
        async for lease in sh.each(c):
            async with sh.open(lease):
                bodies.append(lease.body)
        assert bodies == [1]


async def lose_an_answer(sh: Shell, redis: redis_py.Redis, queue: Any, consumer: Any) -> None:
    """A trip runs, and its connection ends before the answer is read."""
    await sh(consumer._engine.begin(0))
    assert await until(lambda: redis.hget(queue.options.keys.session(consumer.name), "trip") == b"2")
    await sh(consumer._engine._drop())


async def test_what_was_claimed_ahead_and_lost_is_no_message(sh: Shell, redis: redis_py.Redis) -> None:
    """It was reaped while another one was in hand: a claim that does not wait gets what is ready again."""
    q = sh.queue()
    await sh(q.put_many(range(4)))
    async with sh.open(q.consumer(prefetch=2)) as c:
        (lease,) = await sh(c.claim())
        expire(redis, q, c)
        await sh(sh.Reaper(q).run_once())
        with pytest.raises(reliq.LeaseLost):
            await sh(lease.ack())
        (again,) = await sh(c.claim(timeout=0))
        assert (again.body, again.fence) == (0, 2)
        await sh(again.release())


async def test_a_late_settle_claims_no_more_than_was_asked_for(sh: Shell, redis: redis_py.Redis) -> None:
    """One in hand is one in hand, also if its settle comes too late."""
    q = sh.queue()
    await sh(q.put_many(range(3)))
    async with sh.open(q.consumer(prefetch=1)) as c:
        (first,) = await sh(c.claim())
        expire(redis, q, c)
        await sh(sh.Reaper(q).run_once())
        (second,) = await sh(c.claim(timeout=5))
        with pytest.raises(reliq.LeaseLost):
            await sh(first.ack())
        assert redis.llen(q.options.keys.doing(c.name)) == 1
        await sh(second.ack())
