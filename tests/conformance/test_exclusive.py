"""The exclusive mode in both shells: strict order, batches that are removed when they were handled, one holder."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest
import redis as redis_py
import tenacity

import reliq
from reliq import errors, holding
from reliq.core import envelope as env
from reliq.identity import clock
from reliq.tripping import Tripping
from tests.conformance.shell import Shell, dead_letters, events, expire, until

SOON = reliq.Retry(attempts=3, wait=tenacity.wait_fixed(0.02))


async def take(sh: Shell, holder: Any) -> Any:
    """The next batch."""
    return await sh.next(holder)


async def drain(sh: Shell, q: Any, **options: Any) -> list[Any]:
    """Ack all batches; returns the bodies in order."""
    bodies: list[Any] = []
    async with sh.open(q.exclusive(until_empty=True, **options)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                bodies += batch.bodies
    return bodies


async def test_batches_come_in_order_and_go_when_they_were_handled(sh: Shell, redis: redis_py.Redis) -> None:
    """1,100 messages, 500 at a time; nothing is removed before its batch was left, and it ends at empty."""
    q = sh.queue()
    ids = await sh(q.put_many(range(1100)))
    seen: list[tuple[int, int]] = []
    bodies, found = [], []
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch) as same:
                assert same is batch
                seen.append((batch.number, len(batch)))
                bodies += batch.bodies
                found += [message.id for message in batch.messages]
                assert redis.llen(q.options.keys.ready) == 1100 - len(bodies) + len(batch)
            assert batch.settled
    assert (bodies, found) == (list(range(1100)), list(ids))
    assert seen == [(1, 500), (2, 500), (3, 100)]
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    assert int(redis.hget(q.options.keys.stats, "ack")) == 1100
    assert not redis.hexists(q.options.keys.stats, "exclusive")
    assert redis.zcard(q.options.keys.consumers) == 0


async def test_fences_grow_over_batches_and_holders(sh: Shell) -> None:
    """So a store that refuses a smaller one is safe from a holder that was replaced."""
    q = sh.queue()
    await sh(q.put_many(range(4)))
    fences = []
    for _ in range(2):
        async with sh.open(q.exclusive(batch=1)) as holder:
            for _ in range(2):
                batch = await take(sh, holder)
                fences.append(batch.fence)
                assert await sh(batch.ack()) is True
                assert await sh(batch.ack()) is False
    assert fences == sorted(set(fences))


async def test_there_is_one_holder_and_no_consumer_beside_it(sh: Shell) -> None:
    """Each is told who is there; when that one has gone they get in."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.exclusive()) as holder:
        with pytest.raises(errors.QueueHeld, match=holder.name) as caught:
            async with sh.open(q.exclusive()):
                pass
        assert caught.value.names == [holder.name]
        assert 0 < caught.value.left <= 15
        with pytest.raises(errors.QueueHeld, match=f"{holder.name} holds it exclusively"):
            async with sh.open(q.consumer()):
                pass
    async with sh.open(q.consumer()) as consumer:
        with pytest.raises(errors.QueueHeld, match=consumer.name):
            async with sh.open(q.exclusive()):
                pass
    assert await drain(sh, q) == [1]


async def test_waiting_for_the_queue(sh: Shell) -> None:
    """wait= seconds, or for ever; then it is had as soon as the other has gone."""
    q = sh.queue()
    async with sh.open(q.consumer()):
        started = time.monotonic()
        with pytest.raises(errors.QueueHeld):
            async with sh.open(q.exclusive(wait=0.3)):
                pass
        assert time.monotonic() - started >= 0.3
        waiting = sh.start(q.exclusive(wait=None).__enter__) if sh.name == "sync" else None
        other = q.exclusive(wait=None)
        waiting = waiting or asyncio.create_task(other.__aenter__())
        await asyncio.sleep(0.1)
        assert not waiting.done()
    holder = await asyncio.wait_for(waiting, 5)
    await sh.close(holder)


async def test_what_the_dead_held_is_had_back_first(sh: Shell, redis: redis_py.Redis) -> None:
    """A dead consumer's messages are in the way only until its lease is over: the holder reaps by itself."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3]))
    c = q.consumer()
    async with sh.open(c):
        leases = await sh(c.claim(2))
        await asyncio.sleep(0)
        doing = redis.lrange(q.options.keys.doing(c.name), 0, -1)
        for lease in leases:
            await sh(lease.ack())
    redis.rpush(q.options.keys.doing("gone"), *doing)
    redis.zadd(q.options.keys.consumers, {"gone": 1})
    redis.hset(q.options.keys.stats, "server_since", 0)
    assert await drain(sh, q) == [1, 2, 3]


async def test_a_batch_that_fails_comes_again_as_it_was(sh: Shell, redis: redis_py.Redis) -> None:
    """In its place, after the policy's wait, with one attempt more and a larger fence; what was put meanwhile is
    behind it."""
    q = sh.queue(retry=reliq.Retry(attempts=3, wait=tenacity.wait_fixed(0.2)))
    await sh(q.put_many([1, 2]))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        batch = await take(sh, holder)
        failed_at = time.monotonic()
        async with sh.open(batch):
            raise ValueError("no database")
        await sh(q.put(3))
        again = await take(sh, holder)
        assert time.monotonic() - failed_at >= 0.2
        assert (again.bodies, again.attempt, again.messages[0].deliveries) == ([1, 2], 2, 2)
        assert again.fence > batch.fence
        assert again.messages[0].fence > batch.messages[0].fence
        await sh(again.ack())
        last = await take(sh, holder)
        assert (last.bodies, last.attempt) == ([3], 1)
        await sh(last.ack())
    assert [e for e in events(redis, q) if e[0] == "retry"] == [("retry", "200")] * 2


async def test_the_one_that_fails_is_found_and_the_others_are_handled(sh: Shell, redis: redis_py.Redis) -> None:
    """After the policy's attempts in halves, down to one, which is dead-lettered; order is kept."""
    q = sh.queue(retry=SOON)
    await sh(q.put_many(range(40)))
    done, sizes = [], []
    async with sh.open(q.exclusive(batch=32, until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                sizes.append(len(batch))
                if 11 in batch.bodies:
                    raise ValueError("eleven")
                done += batch.bodies
    assert done == [n for n in range(40) if n != 11]
    assert sizes == [32, 32, 32, 16, 8, 4, 2, 1, 1, 4, 8, 8, 8] or sizes[:7] == [32, 32, 32, 16, 8, 4, 2]
    ((note, element),) = dead_letters(redis, q)
    assert (note["cause"], note["error"], note["worker"]) == ("ATTEMPTS", "ValueError: eleven", holder.name)
    assert 'raise ValueError("eleven")' in note["traceback"]
    assert env.unpack(element).failed == 3
    assert tuple(await sh(q.size())) == (0, 0, 0, 1)


async def test_an_outage_of_the_handler_costs_nobody(sh: Shell, redis: redis_py.Redis) -> None:
    """A database that is away for fewer attempts than there are: all are handled in order, none is buried."""
    q = sh.queue(retry=SOON)
    await sh(q.put_many(range(10)))
    fails, done = iter([True, True, False]), []
    async with sh.open(q.exclusive(batch=4, until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                if next(fails, False):
                    raise ConnectionError("away")
                done += batch.bodies
    assert done == list(range(10))
    assert dead_letters(redis, q) == []


async def test_verdicts_of_handlers(sh: Shell, redis: redis_py.Redis) -> None:
    """RetryAfter says when; Release counts nothing; Bury halves at once, down to the one that it is about; and a
    message of a batch can be buried by itself."""
    q = sh.queue(retry=reliq.Retry(attempts=3, wait=tenacity.wait_fixed(30)))
    await sh(q.put_many(range(4)))
    sizes = []
    async with sh.open(q.exclusive(batch=3, until_empty=True)) as holder:
        batch = await take(sh, holder)
        async with sh.open(batch):
            raise reliq.RetryAfter(0.05)
        batch = await take(sh, holder)
        assert (len(batch), batch.attempt) == (3, 2)
        async with sh.open(batch):
            raise reliq.Release("not now")
        batch = await take(sh, holder)
        assert (len(batch), batch.attempt, batch.messages[0].deliveries) == (3, 2, 3)
        batch.messages[1].bury("no such thing")
        await sh(batch.ack())
        batch = await take(sh, holder)
        async with sh.open(batch):
            sizes.append(batch.bodies)
            raise reliq.Bury("neither this")
        assert [b async for b in sh.each(holder)] == []
    assert sizes == [[3]]
    letters = dead_letters(redis, q)
    assert [(note["cause"], note["error"]) for note, _ in letters] == [
        ("BURIED", "no such thing"),
        ("BURIED", "neither this"),
    ]


async def test_explicit_retry_and_release(sh: Shell) -> None:
    """Both leave the messages in their place; a retry counts."""
    q = sh.queue(retry=SOON)
    await sh(q.put_many([1, 2]))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        batch = await take(sh, holder)
        assert await sh(batch.retry(0.01)) is True
        batch = await take(sh, holder)
        assert batch.attempt == 2
        assert await sh(batch.release()) is True
        batch = await take(sh, holder)
        assert (batch.attempt, batch.bodies) == (2, [1, 2])
        await sh(batch.ack())


async def test_an_explicit_retry_needs_no_error_that_is_worth_one(sh: Shell, redis: redis_py.Redis) -> None:
    """What the policy says of errors is not asked."""
    q = sh.queue(retry=reliq.Retry(attempts=2, wait=0, retry_on=ConnectionError))
    await sh(q.put(1))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        await sh((await take(sh, holder)).retry())
        batch = await take(sh, holder)
        assert (batch.bodies, batch.attempt) == ([1], 2)
        await sh(batch.retry())
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["ATTEMPTS"]


async def test_a_wait_without_end_is_none(sh: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """Of a policy or of the handler: the default policy decides, and the holder goes on."""
    q = sh.queue(retry=reliq.Retry(wait=lambda state: float("inf")))
    await sh(q.put(1))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        for error in (reliq.RetryAfter(float("inf")), ValueError("no database")):
            caplog.clear()
            async with sh.open(await take(sh, holder)):
                raise error
            assert "a wait without end" in caplog.text
        batch = await take(sh, holder)
        assert (batch.bodies, batch.attempt) == ([1], 3)
        await sh(batch.ack())


async def test_what_was_pushed_to_the_head_meanwhile(
    sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is removed: that one comes first, and the batch comes again behind it, under larger fences."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        batch = await take(sh, holder)
        redis.rpush(q.options.keys.ready, "0")
        assert await sh(batch.ack()) is False
        assert "Nothing was removed" in caplog.text
        again = await take(sh, holder)
        assert again.bodies == [0, 1, 2]
        assert again.messages[1].fence > batch.messages[0].fence
        assert await sh(again.ack()) is True
        assert [b async for b in sh.each(holder)] == []
    assert ("mismatch", "2 in hand, and not at the head any more: ack") in events(redis, q)


async def test_a_lock_that_is_lost_is_told(sh: Shell, redis: redis_py.Redis) -> None:
    """Somebody took it over: the ack is refused, and so is the next batch."""
    q = sh.queue()
    await sh(q.put_many(range(3)))
    async with sh.open(q.exclusive(batch=2)) as holder:
        batch = await take(sh, holder)
        expire(redis, q, holder)
        async with sh.open(q.exclusive()) as other:
            newer = await take(sh, other)
            assert newer.bodies == [0]
            assert newer.messages[0].losses == 1
            assert newer.fence > batch.fence
            with pytest.raises(reliq.LeaseLost, match=r"batch\.fence"):
                await sh(batch.ack())
            assert batch.lost
            assert holder.lost
            assert not newer.lost
            with pytest.raises(reliq.LeaseLost):
                await take(sh, holder)
            await sh(newer.ack())
        assert (await sh(q.size())).ready == 2
    async with sh.open(q.exclusive()) as holder:
        batch = await take(sh, holder)
        assert batch.bodies == [1]
        await sh(batch.ack())


async def test_the_lock_is_renewed_while_a_batch_is_handled(sh: Shell, redis: redis_py.Redis) -> None:
    """A handler of several leases keeps it."""
    q = sh.queue(lease=0.6)
    await sh(q.put(1))
    redis.hset(q.options.keys.stats, "server_since", 0)
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        batch = await take(sh, holder)
        await asyncio.sleep(1.8)
        assert not batch.lost
        with pytest.raises(errors.QueueHeld):
            async with sh.open(q.exclusive()):
                pass
        assert await sh(batch.ack()) is True


async def test_a_holder_that_waits_wakes_when_something_is_put(sh: Shell) -> None:
    """At once, not after the block; also for what is due later."""
    q = sh.queue()
    async with sh.open(q.exclusive()) as holder:
        for options, least, most in (({}, 0.0, 0.5), ({"delay": 0.3}, 0.25, 1.0)):
            waiting = sh.start(lambda: sh.next(holder)) if sh.name == "aio" else sh.start(next, holder)
            await asyncio.sleep(0.15)
            if options:
                await sh(q.put("x"))
                batch = await asyncio.wait_for(waiting, 5)
                await sh(batch.ack())
                await sh(q.put("later", **options))
                put_at = time.monotonic()
                waiting = sh.start(lambda: sh.next(holder)) if sh.name == "aio" else sh.start(next, holder)
            else:
                put_at = time.monotonic()
                await sh(q.put("now"))
            batch = await asyncio.wait_for(waiting, 5)
            assert least <= time.monotonic() - put_at < most
            await sh(batch.ack())


async def test_raw_values_and_large_bodies(sh: Shell, redis: redis_py.Redis) -> None:
    """Equal raw values are one message each; bodies beside the list are fetched, and go with their batch."""
    q = sh.queue()
    redis.lpush(q.options.keys.ready, "7", "7", "{no json")
    large = "x" * 100_000
    await sh(q.put_many([large, "small"]))
    bodies: list[Any] = []
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                assert len({message.id for message in batch.messages}) == len(batch)
                bodies += batch.bodies
    assert bodies == [7, 7, large, "small"]
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["UNDECODABLE"]
    assert not list(redis.scan_iter(match=q.options.keys.body(b"") + "*"))


async def test_a_body_that_is_gone_is_dead_lettered(sh: Shell, redis: redis_py.Redis) -> None:
    """Its message can never be handled, nor one where somebody has put something else; the others are."""
    q = sh.queue()
    await sh(q.put_many(["x" * 100_000, "y" * 100_000, "small"]))
    first, second = redis.scan_iter(match=q.options.keys.body(b"") + "*")
    redis.delete(first, second)
    redis.lpush(second, "something else")
    assert await drain(sh, q) == ["small"]
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["BODY_MISSING"] * 2


async def test_an_unsettled_batch_stops_the_loop(sh: Shell, redis: redis_py.Redis) -> None:
    """Who forgets to settle is told; one that is dropped warns and comes again."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        batch = await take(sh, holder)
        with pytest.raises(errors.ConfigError, match="with batch"):
            await take(sh, holder)
        dropped = [batch]
        del batch
        with pytest.warns(ResourceWarning, match="without being settled"):
            dropped.clear()
        again = await take(sh, holder)
        assert (again.bodies, again.attempt) == ([1], 1)
        await sh(again.ack())


async def test_closing_leaves_all_in_its_place(sh: Shell, redis: redis_py.Redis) -> None:
    """break, close: what was not settled is ready, uncounted, in order; the holder is closed for good."""
    q = sh.queue()
    await sh(q.put_many(range(3)))
    holder = q.exclusive(batch=2)
    async with sh.open(holder):
        batch = await take(sh, holder)
        assert batch.bodies == [0, 1]
    assert [b async for b in sh.each(holder)] == []
    with pytest.raises(reliq.ReliqError, match="closed"):
        await sh(batch.ack())
    await sh.close(holder)
    counters = [env.unpack(e) for e in redis.lrange(q.options.keys.ready, 0, -1)]
    assert [(e.failed, e.lost, e.returns) for e in counters] == [(0, 0, 0), (0, 0, 1), (0, 0, 1)]
    assert await drain(sh, q) == [0, 1, 2]


async def test_keyboard_interrupt_goes_on(sh: Shell) -> None:
    """It leaves the block and the messages, uncounted."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))

    async def interrupted() -> None:
        async with sh.open(q.exclusive()) as holder:
            batch = await take(sh, holder)
            async with sh.open(batch):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await interrupted()
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        batch = await take(sh, holder)
        assert (batch.bodies, batch.attempt, batch.messages[0].losses) == ([1, 2], 1, 0)
        await sh(batch.ack())


async def test_a_worker_waits_and_says_so_once(
    sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """While somebody holds the queue a worker claims nothing; then it goes on by itself."""
    caplog.set_level(logging.INFO)
    q = sh.queue(lease=1.0)
    done: list[Any] = []
    worker = sh.Worker(q.ack(done.append), signals=False, concurrency=1)
    async with sh.open(q.exclusive()) as holder:
        await sh(q.put(1))
        running = sh.start(worker.run)
        assert await until(lambda: "holds it exclusively" in caplog.text)
        await asyncio.sleep(0.7)
        told, before = caplog.text, list(done)
    try:
        assert (told.count("holds it exclusively"), before) == (1, [])
        assert holder.name in told
        assert await until(lambda: done == [1])
        assert "nobody holds it exclusively any more" in caplog.text
    finally:
        worker.stop()
        await asyncio.wait_for(running, 10)


async def test_a_worker_ends_the_hold_of_a_dead_holder(sh: Shell, redis: redis_py.Redis) -> None:
    """Its lease is over: consumers get in by themselves."""
    q = sh.queue(lease=1.0)
    await sh(q.put_many([1, 2, 3]))
    holder = q.exclusive(batch=2)
    async with sh.open(holder):
        batch = await take(sh, holder)
        redis.hset(q.options.keys.stats, "server_since", 0)
        expire(redis, q, holder)
        async with sh.open(q.consumer()) as consumer:
            leases = await sh(consumer.claim(1, timeout=5))
            assert [lease.body for lease in leases] == [1]
            assert leases[0].fence == 2
            with pytest.raises(reliq.LeaseLost):
                await sh(batch.ack())
            await sh(leases[0].ack())
    assert ("takeover", f"{holder.name}, 2 in hand") in events(redis, q)


def held(server_ms: int, left_ms: int) -> list[Any]:
    """What a trip is answered while somebody holds the queue."""
    return [b"held", server_ms, b"", [], 0, 0, -1, left_ms, 0, [b"holder"], 0, 0]


def test_a_worker_believes_no_end_that_an_outage_or_a_jump_explains() -> None:
    """A holder could not renew while Redis answered nobody, and a clock that jumps makes all leases look over:
    then a worker waits for one lease before it ends the hold (DESIGN 9.10)."""
    options = reliq.Queue("q", "redis://127.0.0.1:1").options  # a lease of 15 s

    def trips() -> Tripping:
        made = Tripping(options, "me")
        assert not made._is_over(held(1_000_000, 5_000), clock())
        return made

    assert trips()._is_over(held(1_000_100, 0), clock())
    jumped, slow, failed = trips(), trips(), trips()
    assert not jumped._is_over(held(1_000_100 + 8_000, 0), clock())
    assert not jumped._is_over(held(1_000_101 + 8_000, 0), clock())
    assert not slow._is_over(held(1_000_100, 0), clock() - 8)
    failed._note_down(errors.Unavailable("it is away"))
    assert not failed._is_over(held(1_000_100, 0), clock())


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 1001}, {"batch": True}, {"wait": -1}, {"wait": "1"}])
async def test_arguments_are_checked(sh: Shell, options: dict[str, Any]) -> None:
    """What is wrong is said when it is made, without I/O."""
    with pytest.raises(errors.ConfigError, match=next(iter(options))):
        sh.queue(url="redis://127.0.0.1:1").exclusive(**options)


async def test_closing_from_outside_ends_the_loop(sh: Shell) -> None:
    """Another thread or task closes the holder: the loop ends, and the queue is free."""
    q = sh.queue(block=0.5)
    holder = q.exclusive()
    got: list[Any] = []

    async def loop() -> None:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                got.extend(batch.bodies)

    if sh.name == "sync":

        def run() -> None:
            for batch in holder:
                with batch:
                    got.extend(batch.bodies)

        thread = threading.Thread(target=run)
        thread.start()
        running: Any = asyncio.create_task(asyncio.to_thread(thread.join))
    else:
        running = asyncio.create_task(loop())
    await sh(q.put(1))
    assert await until(lambda: got == [1])
    await sh.close(holder)
    await asyncio.wait_for(running, 5)
    async with sh.open(q.consumer()):
        pass


async def test_a_hand_over_follows_a_fresh_renewal(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that slept between the read and the hand-over renews first, and hands over only then."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.exclusive()) as holder:
        await sh(holder._do(holding.CALL))
        with monkeypatch.context() as patch:
            patch.setattr(holding, "clock", lambda: clock() + 11)
            assert holder._step() is holding.RENEW
        await sh(holder._do(holding.RENEW))
        batch = await take(sh, holder)
        await sh(batch.ack())


async def test_patience_is_that_of_the_youngest_message(sh: Shell, redis: redis_py.Redis) -> None:
    """One that had failed before, in other company, is no reason to halve a batch at the first failure."""
    q = sh.queue(retry=SOON)
    await sh(q.put_many([1, 2, 3, 4]))
    old = env.unpack(redis.lindex(q.options.keys.ready, -1))
    redis.lset(q.options.keys.ready, -1, env.bump(old, failed=2))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        sizes = []
        async for batch in sh.each(holder):
            async with sh.open(batch):
                sizes.append((len(batch), batch.attempt))
                if len(sizes) < 3:
                    raise ValueError("away")
    assert sizes == [(4, 1), (4, 2), (4, 3)]


async def test_a_busy_holder_learns_that_its_lock_is_lost(sh: Shell, redis: redis_py.Redis) -> None:
    """By its next renewal, long before its lease would have ended; it asks for nothing meanwhile."""
    q = sh.queue(lease=3.0)
    await sh(q.put(1))
    async with sh.open(q.exclusive()) as holder:
        batch = await take(sh, holder)
        redis.hset(q.options.keys.stats, "exclusive", "somebody")
        assert await until(lambda: batch.lost, seconds=1.6)
        with pytest.raises(reliq.LeaseLost):
            await sh(batch.ack())
        redis.hdel(q.options.keys.stats, "exclusive")


async def test_who_goes_on_after_an_interruption_gets_the_same_batch(sh: Shell) -> None:
    """KeyboardInterrupt or a cancellation that is caught outside of the block: uncounted, and nothing is stuck."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    kinds: list[type[BaseException]] = [KeyboardInterrupt, asyncio.CancelledError]
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        for kind in kinds:
            batch = await take(sh, holder)
            with pytest.raises(kind):
                async with sh.open(batch):
                    raise kind
        batch = await take(sh, holder)
        assert (batch.bodies, batch.attempt) == ([1, 2], 1)
        await sh(batch.ack())


async def test_the_policy_in_full(sh: Shell, redis: redis_py.Redis) -> None:
    """Errors that are given up on halve a batch at once, and the one alone dies for that cause; hooks are told of
    each message; the policy of a message counts when it is alone."""
    told: list[tuple[str, Any, Any]] = []
    policy = reliq.Retry(
        attempts=3,
        wait=0.01,
        give_up_on=KeyError,
        on_retry=lambda f: told.append(("retry", f.body, f.attempt)),
        on_dead=lambda f: told.append(("dead", f.body, f.cause)),
    )
    q = sh.queue(retry=policy)
    await sh(q.put("a"))
    await sh(q.put("b", retry=reliq.Retry(attempts=1)))
    sizes: list[int] = []
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                sizes.append(len(batch))
                raise KeyError("no such") if "a" in batch.bodies else ValueError("of b")
    assert sizes == [2, 1, 1]
    assert told == [("retry", "a", 1), ("retry", "b", 1), ("dead", "a", "GIVEN_UP"), ("dead", "b", "ATTEMPTS")]
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["GIVEN_UP", "ATTEMPTS"]


async def test_a_worker_that_is_kept_out_stops_at_once(sh: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing of it to give back: the trip that was refused was not executed."""
    q = sh.queue(lease=1.0)
    worker = sh.Worker(q.ack(print), signals=False, concurrency=1)
    async with sh.open(q.exclusive()):
        running = sh.start(worker.run)
        assert await until(lambda: "holds it exclusively" in caplog.text)
        stopped_at = time.monotonic()
        worker.stop()
        await asyncio.wait_for(running, 20)
        assert time.monotonic() - stopped_at < 3
