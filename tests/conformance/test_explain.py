"""Where is my message, why, and what do I do now: every state and every reason, in both shells."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import msgpack
import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import sample
from reliq.core.explain import Explanation
from reliq.core.reasons import Reason
from reliq.errors import ConfigError, WrongKeyType
from tests.conformance.shell import Shell, expire, now_ms
from tests.lua.lab import Lab

BELL = b"\xc1rlq\0"


async def explained(sh: Shell, queue: Any, id: str, **options: Any) -> Explanation:
    """An explanation, which is always one that a program can read, with words for people."""
    found: Explanation = await sh(queue.explain(id, **options))
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert found.why
    assert found.next
    assert not found.why.endswith(".")
    assert [each.at for each in found.timeline[1:]] == sorted(each.at for each in found.timeline[1:])
    return found


def reach(queue: Any, redis: redis_py.Redis, *, ago: int, acked: int = 0, head: str = "") -> None:
    """Let a sample be that old: so many were acked by then, and this was the head."""
    stats = queue.options.keys.stats
    redis.hset(stats, "sampled", f"{round(now_ms(redis)) - ago} {acked} 0 0 0 {head}")


# -- ready --------------------------------------------------------------------------------------------------


async def test_nobody_takes_it(sh: Shell) -> None:
    """Without a consumer: how many are before it, and the command that starts one."""
    queue = sh.queue()
    ids = await sh(queue.put_many(range(10)))
    found = await explained(sh, queue, ids[3])
    assert (found.state, found.reason) == ("ready", Reason.NO_CONSUMERS)
    assert (found.position, found.length) == (4, 10)
    assert found.command == "reliq worker MODULE:HANDLER"
    assert "no consumer of this queue is registered" in found.why
    assert (found.attempt, found.deliveries, found.failed, found.fence) == (1, 0, 0, 1)
    assert [each.event for each in found.timeline] == ["put"]
    assert found.put_at is not None
    assert abs(found.now - found.put_at) < 60_000
    assert not found.usual


async def test_the_consumers_are_gone(sh: Shell, redis: redis_py.Redis) -> None:
    """Consumers whose lease is over take nothing, and it is said since when they are gone."""
    queue = sh.queue()
    ids = await sh(queue.put_many([1, 2]))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        redis.zadd(queue.options.keys.consumers, {consumer.name: now_ms(redis) - 120_000})
        found = await explained(sh, queue, ids[1])
        await sh(lease.ack())
    assert found.reason is Reason.NO_CONSUMERS
    assert "no consumer is alive; 1 consumer registered, the last lease ended 2 min ago" in found.why


async def test_a_consumer_that_leaves_takes_nothing(sh: Shell, redis: redis_py.Redis) -> None:
    """One that has said goodbye, with something still in hand, is no live one."""
    queue = sh.queue()
    ids = await sh(queue.put_many([1, 2]))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        redis.hset(queue.options.keys.session(consumer.name), "leaving", 1)
        found = await explained(sh, queue, ids[1])
        redis.hdel(queue.options.keys.session(consumer.name), "leaving")
        await sh(lease.ack())
    assert (found.reason, found.why) == (Reason.NO_CONSUMERS, "the consumers that are registered are leaving")


async def test_its_turn_comes(sh: Shell) -> None:
    """Others are before it; without a sample the rate is unknown, and that is said."""
    queue = sh.queue()
    ids = await sh(queue.put_many(range(10)))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        found = await explained(sh, queue, ids[3])
        async with sh.open(lease):
            pass
    assert (found.state, found.reason, found.usual) == ("ready", Reason.WAITING_TURN, True)
    assert (found.position, found.length) == (3, 9)
    assert found.why == "2 messages are before it; 1 live consumer, 1 message in hand"
    assert (found.rate, found.next_at) == (None, None)
    assert "unknown rate" in found.next
    assert found.command == f"reliq status --queue q --prefix {sh.prefix}"


async def test_when_its_turn_comes(sh: Shell, redis: redis_py.Redis) -> None:
    """With a sample there is a rate, and a time."""
    queue = sh.queue()
    ids = await sh(queue.put_many(range(41)))
    async with sh.open(queue.consumer()) as consumer:
        for lease in await sh(consumer.claim(20, timeout=5)):
            await sh(lease.ack())
        reach(queue, redis, ago=20_000)
        found = await explained(sh, queue, ids[40])
    assert found.position in (20, 21), "one may be claimed ahead"
    assert found.rate == pytest.approx(1.0, rel=0.05)
    assert found.next_at is not None
    assert found.next_at - found.now == pytest.approx(20_000, rel=0.1)
    assert "its turn comes in about" in found.next
    assert "as in the last 20 s" in found.next


async def test_consumers_stall(sh: Shell, redis: redis_py.Redis) -> None:
    """Alive consumers that have finished and claimed nothing since the last sample; one ack, and they have not."""
    queue = sh.queue()
    ids = await sh(queue.put_many(range(3)))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        head = (await explained(sh, queue, ids[1])).id
        reach(queue, redis, ago=42_000, head=head)
        found = await explained(sh, queue, ids[2])
        assert found.reason is Reason.CONSUMERS_STALLED
        assert (
            found.why
            == "1 live consumer with 1 message in hand, and for 42 s none was finished and none was claimed"
        )
        await sh(lease.ack())
        assert (await explained(sh, queue, ids[2])).reason is Reason.WAITING_TURN
        reach(queue, redis, ago=42_000, acked=1, head=ids[0])  # the head has moved
        assert (await explained(sh, queue, ids[2])).reason is Reason.WAITING_TURN
        reach(queue, redis, ago=4_000, acked=1, head=ids[1])  # too young
        assert (await explained(sh, queue, ids[2])).reason is Reason.WAITING_TURN


async def test_a_suspect_waits_for_empty_hands(sh: Shell, redis: redis_py.Redis) -> None:
    """A message that a worker died with is handed out alone."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    keys = queue.options.keys
    dead = queue.consumer()
    [lost] = await sh(dead.claim(1, timeout=5))
    redis.hset(keys.stats, "server_since", 0)
    await sh(queue.links.run(_reap(queue, dead.name)))
    async with sh.open(queue.consumer()) as consumer:
        await sh(queue.put(2))
        redis.lmove(keys.ready, keys.ready, "LEFT", "RIGHT")  # so that there is something else to hold
        [lease] = await sh(consumer.claim(1, timeout=5))
        assert lease.body == 2
        found = await explained(sh, queue, id)
        assert (found.state, found.reason, found.position) == ("ready", Reason.SUSPECT_WAITS, 1)
        assert "1 worker died with it in hand" in found.why
        assert (found.lost, found.deliveries, found.fence) == (1, 1, 2)
        reaped = found.timeline[-1]
        assert (reaped.event, reaped.consumer) == ("reap", dead.name)
        assert reaped.told == "its consumer was lost with it in hand; ready again"
        await sh(lease.ack())
    await sh.close(dead)
    assert lost.lost


def _reap(queue: Any, name: str) -> Any:
    from reliq.core import ops

    return ops.reap(queue.options.keys, name, dead=True)


# -- doing --------------------------------------------------------------------------------------------------


async def test_in_whose_hands(sh: Shell) -> None:
    """The consumer, its process, the attempt, the end of its lease; since when is known within bounds."""
    queue = sh.queue()
    id = await sh(queue.put({"n": 1}))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        found = await explained(sh, queue, id)
        assert (found.state, found.reason, found.usual) == ("doing", Reason.LEASED, True)
        assert (found.consumer, found.attempt, found.deliveries) == (consumer.name, 1, 1)
        assert found.who is not None
        assert found.who.startswith("pid=")
        assert found.lease_until is not None
        assert 0 < found.lease_until - found.now <= 15_000
        assert (found.held_since, found.held_after) == (None, found.put_at)
        assert found.position is None
        await sh(lease.ack())


async def test_a_raw_body_has_its_id_since_its_claim(sh: Shell, redis: redis_py.Redis) -> None:
    """For what a foreign producer put, the id tells when it was claimed, and nothing when it was put."""
    queue = sh.queue()
    redis.lpush(queue.options.keys.ready, b'{"n": 1}')
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        found = await explained(sh, queue, lease.id)
        assert (found.reason, found.raw, found.put_at) == (Reason.LEASED, True, None)
        assert found.held_since is not None
        assert 0 <= found.now - found.held_since < 60_000
        assert found.timeline[0].event == "claim"
        await sh(lease.ack())


async def test_the_lease_is_over(sh: Shell, redis: redis_py.Redis) -> None:
    """Its consumer is silent: who brings it back depends on whether somebody else lives."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    silent = queue.consumer()
    [lease] = await sh(silent.claim(1, timeout=5))
    expire(redis, queue, silent)
    redis.zadd(queue.options.keys.consumers, {silent.name: now_ms(redis) - 42_000})
    found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("doing", Reason.LEASE_EXPIRED)
    assert found.why == f"the lease of {silent.name} ended 42 s ago"
    assert "nothing brings it back while no worker" in found.next
    assert found.command == f"reliq reap --queue q --prefix {sh.prefix}"
    redis.zadd(queue.options.keys.consumers, {"another": now_ms(redis) + 15_000})
    found = await explained(sh, queue, id)
    assert found.reason is Reason.LEASE_EXPIRED
    assert "a worker brings it back" in found.next
    redis.zrem(queue.options.keys.consumers, "another")
    await sh(lease.ack())
    await sh.close(silent)


async def test_its_consumer_was_seen_to_die(sh: Shell, redis: redis_py.Redis) -> None:
    """What lies in the hands of a dead name, a late BLMOVE for example, waits for the next sweep."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    keys = queue.options.keys
    await sh(queue.links.run(_reap(queue, "died-1")))
    redis.lmove(keys.ready, keys.inbox("died-1"), "RIGHT", "RIGHT")
    found = await explained(sh, queue, id)
    assert (found.state, found.reason, found.consumer) == ("doing", Reason.CONSUMER_DIED, "died-1")


async def test_on_its_way_into_hands(sh: Shell, redis: redis_py.Redis) -> None:
    """In the inbox of a live consumer nobody has seen it yet; a bell there is no message."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    keys = queue.options.keys
    redis.zadd(keys.consumers, {"alive-1": now_ms(redis) + 15_000})
    redis.lmove(keys.ready, keys.inbox("alive-1"), "RIGHT", "RIGHT")
    redis.rpush(keys.inbox("alive-1"), BELL)
    found = await explained(sh, queue, id)
    assert (found.state, found.reason, found.consumer) == ("doing", Reason.ARRIVING, "alive-1")
    assert found.deliveries == 0


async def test_in_a_list_that_nobody_registered(sh: Shell, redis: redis_py.Redis) -> None:
    """A search of all keys finds what no consumer answers for: in a processing list, and in an inbox."""
    queue = sh.queue()
    ids = await sh(queue.put_many([1, 2]))
    keys = queue.options.keys
    redis.lmove(keys.ready, keys.doing("ghost-1"), "RIGHT", "RIGHT")
    redis.lmove(keys.ready, keys.inbox("ghost-2"), "RIGHT", "RIGHT")
    for id, ghost, deliveries in ((ids[0], "ghost-1", 1), (ids[1], "ghost-2", 0)):
        found = await explained(sh, queue, id)
        assert (found.state, found.reason, found.consumer) == ("doing", Reason.UNREGISTERED, ghost)
        assert (found.lease_until, found.deliveries) == (None, deliveries)
        assert found.command == f"reliq reap --queue q --prefix {sh.prefix}"


# -- later --------------------------------------------------------------------------------------------------


async def test_due_later(sh: Shell) -> None:
    """Until when, and that nobody will be there to take it."""
    queue = sh.queue()
    id = await sh(queue.put(1, delay=600))
    found = await explained(sh, queue, id)
    assert (found.state, found.reason, found.usual) == ("later", Reason.DUE_LATER, True)
    assert found.due_at == found.next_at
    assert found.due_at is not None
    assert 590_000 < found.due_at - found.now <= 600_000
    assert found.next == "it is ready in 10 min, and then nobody takes it: no consumer is alive"
    assert found.command == "reliq worker MODULE:HANDLER"


async def test_retry_backoff(sh: Shell) -> None:
    """It failed, with what, in whose hands, and for which attempt it comes back."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        await sh(lease.retry(delay=60, reason="ValueError: no such address"))
        found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("later", Reason.RETRY_BACKOFF)
    assert found.why == "attempt 1 failed: ValueError: no such address"
    assert found.next == "it is ready in 60 s, for attempt 2"
    assert (found.attempt, found.failed, found.deliveries, found.fence) == (2, 1, 1, 2)
    assert found.error == "ValueError: no such address"
    put, retried = found.timeline
    assert (put.event, retried.event, retried.consumer) == ("put", "retry", consumer.name)
    assert retried.told == "went back for 60 s, failed: ValueError: no such address"


async def test_release_backoff(sh: Shell) -> None:
    """A handler that releases counts no failure."""
    queue = sh.queue()
    id = await sh(queue.put(1))

    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        async with sh.open(lease):
            raise reliq.Release("not now")
        found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("later", Reason.RELEASE_BACKOFF)
    assert (found.attempt, found.failed, found.released) == (1, 0, 1)


async def test_due(sh: Shell, redis: redis_py.Redis) -> None:
    """Its time has come: with consumers it is a matter of moments, without it is not."""
    queue = sh.queue()
    id = await sh(queue.put(1, delay=600))
    keys = queue.options.keys
    [member] = redis.zrange(keys.later, 0, -1)
    redis.zadd(keys.later, {member: now_ms(redis) - 42_000})
    found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("later", Reason.NO_CONSUMERS)
    assert found.why == "it is due since 42 s, and no consumer of this queue is registered"
    redis.zadd(keys.consumers, {"alive-1": now_ms(redis) + 15_000})
    found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("later", Reason.DUE)


# -- dead ---------------------------------------------------------------------------------------------------


async def test_dead_of_its_attempts(sh: Shell) -> None:
    """Since when, why, in whose hands, with the last line of the traceback, and how to see more."""
    queue = sh.queue(retry=reliq.Retry(attempts=1))
    id = await sh(queue.put({"to": "nobody"}))
    async with sh.open(queue.consumer(until_empty=True)) as consumer:
        async for lease in sh.each(consumer):
            async with sh.open(lease):
                raise ValueError("no such address")
    found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("dead", Reason.DEAD_ATTEMPTS)
    assert (found.cause, found.consumer) == ("ATTEMPTS", consumer.name)
    assert found.why == found.error == "ValueError: no such address"
    assert found.traceback == "ValueError: no such address"
    assert found.dead_at is not None
    assert 0 <= found.now - found.dead_at < 60_000
    assert (found.attempt, found.failed, found.deliveries) == (None, 1, 1)
    assert found.command == f"reliq dead show {id} --queue q --prefix {sh.prefix}"
    assert [each.event for each in found.timeline] == ["put", "bury"]
    assert found.timeline[1].told == "given up: ATTEMPTS"


@pytest.mark.parametrize("cause", ["POISON", "BURIED", "UNDECODABLE", "BAD_META", "TOO_LARGE", "MY_OWN"])
async def test_dead_of_something_else(sh: Shell, redis: redis_py.Redis, cause: str) -> None:
    """Each cause is a reason; one of a handler's own is DEAD_OTHER, and told."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    keys = queue.options.keys
    element = redis.rpop(keys.ready)
    assert isinstance(element, bytes)
    note = {"id": id, "cause": cause, "worker": "w-1", "error": "why it died"}
    redis.zadd(keys.dead, {env.join_note(note, element): 1_700_000_000_000})
    found = await explained(sh, queue, id)
    assert found.reason == ("DEAD_OTHER" if cause == "MY_OWN" else f"DEAD_{cause}")
    assert (found.cause, found.why, found.dead_at) == (cause, "why it died", 1_700_000_000_000)
    assert found.timeline[-1].told == f"given up: {cause}"  # the ledger does not tell, the note does


async def test_dead_without_a_note(sh: Shell, redis: redis_py.Redis) -> None:
    """What another program wrote among the dead letters is found by the id that is in it."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    keys = queue.options.keys
    element = redis.rpop(keys.ready)
    assert isinstance(element, bytes)
    redis.zadd(keys.dead, {element: 1_700_000_000_000})
    assert (await explained(sh, queue, id)).reason is Reason.DEAD_BAD_NOTE


async def test_another_message_that_speaks_of_it(sh: Shell, redis: redis_py.Redis) -> None:
    """An id in the body or in the error of another dead letter is not the message."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    redis.delete(queue.options.keys.ready)
    body = msgpack.packb({"after": id, "raw": bytes.fromhex(id)})
    other = env.pack(env.uuid7(1, bytes(10)), body)
    note = {"id": "00" * 16, "cause": "BURIED", "error": f"after {id}", "worker": "w"}
    redis.zadd(queue.options.keys.dead, {env.join_note(note, other): 1})
    assert (await explained(sh, queue, id)).reason is Reason.DONE_OR_NEVER_PUT


# -- nowhere ------------------------------------------------------------------------------------------------


async def test_acked_or_never_put(sh: Shell) -> None:
    """An ack leaves no trace, and that is said; so is what the id tells by itself."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    assert await sh.drain(queue) == [1]
    found = await explained(sh, queue, id)
    assert (found.state, found.reason, found.usual) == ("absent", Reason.DONE_OR_NEVER_PUT, False)
    assert "nowhere in q" in found.why
    assert "its id was made" in found.why
    assert (found.put_at, found.size, found.attempt) == (None, None, None)


async def test_done_as_its_marker_says(sh: Shell) -> None:
    """An id of the user's own leaves a marker for an hour: what it names was put, and so it is done."""
    queue = sh.queue()
    await sh(queue.put(1, id="order-17"))
    assert (await explained(sh, queue, "order-17")).state == "ready"
    await sh.drain(queue)
    found = await explained(sh, queue, "order-17")
    assert (found.state, found.reason, found.usual) == ("done", Reason.DONE, True)
    assert found.id == env.named_id("order-17").hex()


async def test_done_as_the_ledger_says(sh: Shell) -> None:
    """What failed once stands in the ledger: it was there, so it is done."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        await sh(lease.retry(delay=0.01, reason="busy"))
    await asyncio.sleep(0.02)
    assert await sh.drain(queue) == [1]
    found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("done", Reason.DONE)
    assert "the ledger tells of it" in found.why
    assert [each.event for each in found.timeline] == ["id", "retry"]


async def test_a_dead_letter_that_was_removed(sh: Shell, redis: redis_py.Redis) -> None:
    """The last that was heard of it is its death."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        await sh(lease.bury("no"))
    redis.delete(queue.options.keys.dead)
    found = await explained(sh, queue, id)
    assert (found.state, found.reason) == ("removed", Reason.REMOVED)
    assert "it was a dead letter (BURIED)" in found.why


@pytest.mark.parametrize(
    ("id", "says"),
    [
        ("order-17", "as an id of your own, 'order-17' stands for dd74bf5f7e96812e83720b89f564cfdb"),
        ("0198c1f2-a3b4-4c5d-8e9f-0a1b2c3d4e5f", "a UUID of version 4, and reliq's own are of version 7"),
        ("0198c1f2a3b47c5d8e9f0a1b2c3d4e5", "an id of reliq has 32 digits, and this has 31"),
        ("f198c1f2a3b47c5d8e9f0a1b2c3d4e5f", "its id says a time"),
    ],
)
async def test_what_an_id_says(sh: Shell, id: str, says: str) -> None:
    """A wrong id is often seen by looking at it."""
    queue = sh.queue()
    await sh(queue.put(1))
    found = await explained(sh, queue, id)
    assert found.reason is Reason.DONE_OR_NEVER_PUT
    assert says in found.why


async def test_however_the_id_is_written(sh: Shell) -> None:
    """With dashes, in capitals, with white space around it."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    dashed = "-".join((id[:8], id[8:12], id[12:16], id[16:20], id[20:]))
    for written in (f" {id}\n", dashed, id.upper()):
        assert (await explained(sh, queue, written)).state == "ready"


@pytest.mark.parametrize("id", ["", "  ", None, 17])
async def test_no_id(sh: Shell, id: Any) -> None:
    """What cannot be an id is refused."""
    with pytest.raises(ConfigError, match="the id of a message"):
        await sh(sh.queue().explain(id))


async def test_a_message_of_another_queue(sh: Shell) -> None:
    """It is found there, and said where; also in an adopted list."""
    queue, other = sh.queue("emails"), sh.queue("images", key=f"{sh.prefix}:an:old:list")
    await sh(queue.put(1))
    id = await sh(other.put(2))
    found = await explained(sh, queue, id)
    assert (found.queue, found.state) == ("images", "ready")
    assert found.command == "reliq worker MODULE:HANDLER"
    assert (await explained(sh, queue, id, deep=False)).reason is Reason.UNSEARCHED


async def test_a_typo_in_the_name_of_the_queue(sh: Shell) -> None:
    """There is no such queue, but a near one; a message is found all the same."""
    id = await sh(sh.queue("emails").put(1))
    typo = sh.queue("emials")
    assert (await explained(sh, typo, id)).queue == "emails"
    await sh.drain(sh.queue("emails"))
    found = await explained(sh, typo, "0198c1f2a3b47c5d8e9f0a1b2c3d4e5f")
    assert found.reason is Reason.UNKNOWN_QUEUE
    assert "did you mean 'emails'?" in found.why


async def test_a_quick_look_says_what_it_left_out(sh: Shell) -> None:
    """It never says that something is nowhere."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    assert (await explained(sh, queue, id, deep=False)).state == "ready"
    await sh.drain(queue)
    found = await explained(sh, queue, id, deep=False)
    assert (found.state, found.reason) == ("unsearched", Reason.UNSEARCHED)
    assert found.command == f"reliq explain {id} --queue q --prefix {sh.prefix}"


# -- what stands in the way ---------------------------------------------------------------------------------


async def test_a_key_of_the_wrong_type(sh: Shell, redis: redis_py.Redis) -> None:
    """In the queue itself it is an error; in another queue it is told, and the search goes on."""
    queue, other = sh.queue("emails"), sh.queue("images")
    id = await sh(queue.put(1))
    await sh(other.put(1))
    redis.set(other.options.keys.later, "foreign")
    found = await explained(sh, queue, "0198c1f2a3b47c5d8e9f0a1b2c3d4e5f")
    assert found.reason is Reason.DONE_OR_NEVER_PUT
    assert "queue 'images' could not be searched" in found.why
    assert (await explained(sh, queue, id)).state == "ready"
    with pytest.raises(WrongKeyType):
        await sh(other.explain(id.replace("0", "1")))
    assert (await explained(sh, other, id)).queue == "emails"


async def test_a_broken_ledger_tells_nothing(sh: Shell, redis: redis_py.Redis) -> None:
    """A ledger of the wrong type costs the timeline, nothing else."""
    queue = sh.queue()
    id = await sh(queue.put(1))
    redis.set(queue.options.keys.events, "foreign")
    assert [each.event for each in (await explained(sh, queue, id)).timeline] == ["put"]


async def test_it_only_reads(sh: Shell, redis: redis_py.Redis) -> None:
    """Nothing in Redis is changed by any explanation."""
    queue = sh.queue()
    await sh(queue.put_many(range(5)))
    await sh(queue.put(1, delay=60))
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(1, timeout=5))
        await sh(lease.bury("no"))
    before = Lab(redis, sh.prefix).snapshot()
    assert len(before) > 5
    for id in ("nothing", lease.id, "0198c1f2a3b47c5d8e9f0a1b2c3d4e5f"):
        await explained(sh, queue, id)
    assert Lab(redis, sh.prefix).snapshot() == before


async def test_many_consumers(sh: Shell, redis: redis_py.Redis) -> None:
    """All hands are looked at, however many there are; live ones are counted."""
    queue = sh.queue()
    keys = queue.options.keys
    id = await sh(queue.put(1))
    end = now_ms(redis) + 60_000
    redis.zadd(keys.consumers, {f"c-{n}": end + n for n in range(250)})
    found = await explained(sh, queue, id)
    assert (found.reason, "250 live consumers" in found.why) == (Reason.WAITING_TURN, True)
    redis.lmove(keys.ready, keys.doing("c-249"), "RIGHT", "RIGHT")
    found = await explained(sh, queue, id)
    assert (found.reason, found.consumer) == (Reason.LEASED, "c-249")


async def test_a_worker_takes_samples(sh: Shell, redis: redis_py.Redis) -> None:
    """A consumer on duty writes down how far the queue has come, and lets go what is too old in the ledger."""
    queue = sh.queue()
    stats, events = queue.options.keys.stats, queue.options.keys.events
    ids = await sh(queue.put_many(range(3)))
    old = round(now_ms(redis)) - 15 * 86_400_000
    for n in range(300):
        redis.xadd(events, {"event": "late", "id": ids[0], "consumer": "c", "detail": "ack"}, id=f"{old}-{n}")
    redis.xadd(events, {"event": "late", "id": ids[0], "consumer": "c", "detail": "ack"})
    await sh(sh.Reaper(queue).on_duty(queue, 2))
    taken = sample.Sample.parse(redis.hget(stats, "sampled"))
    assert taken is not None
    assert (taken.acked, taken.head) == (0, ids[0])
    assert abs(taken.ms - now_ms(redis)) < 10_000
    assert redis.xlen(events) < 150, "trimmed by whole nodes of 100"
    assert len(redis.xrange(events, f"{old + 1}-0")) == 1
    await sh(sh.Reaper(queue).on_duty(queue, 2))
    assert sample.Sample.parse(redis.hget(stats, "sampled")) == taken, "not so soon again"
    reach(queue, redis, ago=20_000)
    await sh(sh.Reaper(queue).on_duty(queue, 2))
    before = sample.Sample.parse(redis.hget(stats, "sampled_before"))
    assert before is not None
    assert 19_000 < now_ms(redis) - before.ms < 30_000
