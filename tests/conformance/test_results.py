"""Results and progress: who has asked is told of every end that a message can have; nobody else pays."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from typing import Any

import msgpack
import pytest
import redis as redis_py

import reliq
from reliq import defaults
from reliq.core import results
from reliq.errors import (
    BodyError,
    BodyTooLarge,
    ConfigError,
    MessageFailed,
    ResultMissing,
    ResultPending,
    Unavailable,
)
from tests.conformance.shell import Shell, dead_letters, events, expire, until


def handler(sh: Shell, queue: Any, function: Any, **options: Any) -> Any:
    """The function as a handler of this shell."""
    if sh.name == "sync":
        return queue.ack(function, **options)

    async def handle(body: Any) -> Any:
        return function(body)

    return queue.ack(handle, **options)


async def work(sh: Shell, *handlers: Any) -> None:
    """Handle all that is ready."""
    await sh(sh.Worker(*handlers, until_empty=True, signals=False).run())


def kept(redis: redis_py.Redis, queue: Any) -> list[bytes]:
    """The keys of results and reports that are there."""
    return sorted(
        key
        for part in ("result", "progress")
        for key in redis.scan_iter(f"{queue.options.keys.prefix}:*:{part}:*")
    )


async def test_what_the_handler_returns(sh: Shell, redis: redis_py.Redis) -> None:
    """By the receipt, and by the id alone from another queue object; as often as it is asked for; for its time."""
    q = sh.queue()
    receipt = await sh(q.put({"n": 20}, result=60))
    await work(sh, handler(sh, q, lambda body: {"sum": body["n"] + 1}))
    assert await sh(receipt.result(5)) == {"sum": 21}
    assert await sh(receipt.result()) == {"sum": 21}
    assert await sh(sh.queue().result(str(receipt), timeout=0)) == {"sum": 21}
    assert 50_000 < redis.pttl(q.options.keys.result(bytes.fromhex(receipt))) <= 60_000


async def test_who_waits_is_woken(sh: Shell) -> None:
    """Any number at once, and by the end of the message, not by looking again."""
    q = sh.queue()
    receipt = await sh(q.put(1, result=True))
    waits = [sh.start(sh.queue(block=30, timeout=40).result, receipt, 30) for _ in range(3)]
    waits.append(sh.start(receipt.result, 30))
    await asyncio.sleep(0.3)
    started = time.monotonic()
    await work(sh, handler(sh, q, lambda body: body + 1))
    assert await asyncio.gather(*waits) == [2] * 4
    assert time.monotonic() - started < 20


async def test_nothing_is_kept_unasked(sh: Shell, redis: redis_py.Redis) -> None:
    """No key, no word in any script; and to wait for it says so at once to who has the receipt."""
    q = sh.queue()
    receipt = await sh(q.put(1))
    [other] = await sh(q.put_many([2]))
    await work(sh, handler(sh, q, lambda body: "unheard"))
    assert kept(redis, q) == []
    for each in (receipt, other):
        with pytest.raises(ConfigError, match=r"did not ask for a result"):
            await sh(each.result())


async def test_many(sh: Shell) -> None:
    """Each receipt of a put_many waits for its own; a message that returns nothing is done with nothing."""
    q = sh.queue()
    receipts = await sh(q.put_many([1, 2, None], result=30, delay=0.01))
    while sum(tuple(await sh(q.size()))):
        await work(sh, handler(sh, q, lambda body: body and body * 10))
    assert [await sh(receipt.result(5)) for receipt in receipts] == [10, 20, None]


async def test_a_receipt_that_has_travelled(sh: Shell) -> None:
    """It is the id still, and says what to call instead."""
    receipt = await sh(sh.queue().put(1, result=5))
    for same in (copy.copy(receipt), pickle.loads(pickle.dumps(receipt))):
        assert same == receipt
        with pytest.raises(ConfigError, match=r"queue.result\(id\)"):
            same.result()


@pytest.mark.parametrize("bad", [0, -1, "60", 1e10, float("nan"), None])
async def test_no_time(sh: Shell, bad: Any) -> None:
    """What is no time to keep it is refused before anything is sent; so is a timeout that is none."""
    q = sh.queue()
    with pytest.raises(ConfigError, match=r"put\(result="):
        await sh(q.put(1, result=bad))
    with pytest.raises(ConfigError, match=r"result\(timeout=-1\)"):
        await sh(q.result("0" * 32, -1))


async def test_the_remote_traceback(sh: Shell, redis: redis_py.Redis) -> None:
    """A dead letter tells why, with the traceback of its handler; revived, it may be done after all."""
    q = sh.queue(retry=reliq.Retry(attempts=2, wait=0))
    broken = [True]

    def divide(body: int) -> int:
        return body // (0 if broken[0] else 1)

    receipt = await sh(q.put(7, result=60))
    while (await sh(q.size())).dead == 0:
        await work(sh, handler(sh, q, divide))
    with pytest.raises(MessageFailed, match=r"was not done \(ATTEMPTS\): ZeroDivisionError") as failed:
        await sh(receipt.result(5))
    assert failed.value.cause == "ATTEMPTS"
    assert "in divide" in failed.value.traceback
    assert "return body // (0 if broken[0] else 1)" in str(failed.value.__cause__)
    assert await sh(q.revive(receipt))
    with pytest.raises(ResultPending):
        await sh(receipt.result(0))
    broken[0] = False
    await work(sh, handler(sh, q, divide))
    assert await sh(receipt.result(5)) == 7


async def test_a_failed_attempt_is_no_end(sh: Shell) -> None:
    """While it is to be tried again, who waits waits."""
    q, seen = sh.queue(retry=reliq.Retry(attempts=3, wait=0)), []

    def fail_once(body: int) -> str:
        seen.append(body)
        if len(seen) == 1:
            raise ValueError("no")
        return "yes"

    receipt = await sh(q.put(1, result=60))
    waits = sh.start(receipt.result, 30)
    while len(seen) < 2:
        await work(sh, handler(sh, q, fail_once))
    assert await waits == "yes"


async def test_cancelled(sh: Shell) -> None:
    """Where it waits; and in the hands of a handler that then fails."""
    q = sh.queue()
    waiting = await sh(q.put(1, result=60))
    assert await sh(q.cancel(waiting, by="ada"))
    with pytest.raises(MessageFailed, match=r"\(CANCELLED\): cancelled by .*ada"):
        await sh(waiting.result(5))
    running = await sh(q.put(2, result=60))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert await sh(q.cancel(running, by="bob"))
        async with sh.open(lease):
            raise ValueError("interrupted")
    with pytest.raises(MessageFailed, match=r"\(CANCELLED\): cancelled by .*bob") as failed:
        await sh(running.result(5))
    assert failed.value.cause == "CANCELLED"


async def test_cancelled_but_done(sh: Shell) -> None:
    """A handler that returns all the same has done its work."""
    q = sh.queue()
    receipt = await sh(q.put(1, result=60))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert await sh(q.cancel(receipt))
        await sh(lease.ack(result="done"))
    assert await sh(receipt.result(5)) == "done"


async def test_replaced(sh: Shell) -> None:
    """By another put with its key."""
    q, only = sh.queue(), reliq.Unique("k", on_conflict="replace")
    first = await sh(q.put(1, unique=only, result=60))
    second = await sh(q.put(2, unique=only, result=60))
    await work(sh, handler(sh, q, lambda body: body))
    assert await sh(second.result(5)) == 2
    with pytest.raises(MessageFailed, match=r"\(REPLACED\)"):
        await sh(first.result(5))


async def test_purged_and_expired(sh: Shell) -> None:
    """Removed with all that waited; dead before anybody began."""
    q = sh.queue()
    purged = await sh(q.put(1, result=60))
    assert await sh(q.purge()) == 1
    with pytest.raises(MessageFailed, match=r"\(PURGED\)"):
        await sh(purged.result(5))
    expired = await sh(q.put(1, result=60, expires=0.001))
    await asyncio.sleep(0.05)
    await work(sh, handler(sh, q, lambda body: body))
    with pytest.raises(MessageFailed, match=r"\(EXPIRED\)"):
        await sh(expired.result(5))


async def test_poison_and_cancelled_with_its_worker(sh: Shell, redis: redis_py.Redis) -> None:
    """What a reaper ends, it tells: one that kills, and one that was cancelled while its worker died."""
    q = sh.queue(max_losses=1)
    for cause in ("POISON", "CANCELLED"):
        receipt = await sh(q.put(1, result=60))
        c = q.consumer()
        async with sh.open(c):
            (lease,) = await sh(c.claim(timeout=5))
            if cause == "CANCELLED":
                await sh(q.cancel(receipt))
            expire(redis, q, c)
            await sh(sh.Reaper(q).run_once())
            with pytest.raises(MessageFailed) as failed:
                await sh(receipt.result(5))
            assert failed.value.cause == cause
            with pytest.raises(reliq.LeaseLost):
                await sh(lease.ack(result="too late"))
        with pytest.raises(MessageFailed):
            await sh(receipt.result(5))


async def test_a_late_ack_leaves_no_result(sh: Shell, redis: redis_py.Redis) -> None:
    """Who has lost the message tells nothing; who has it then does."""
    q = sh.queue()
    receipt = await sh(q.put(1, result=60))
    async with sh.open(q.consumer()) as slow:
        (lease,) = await sh(slow.claim(timeout=5))
        expire(redis, q, slow)
        await sh(sh.Reaper(q).run_once())
        with pytest.raises(reliq.LeaseLost):
            await sh(lease.ack(result="zombie"))
        assert kept(redis, q) == []
        async with sh.open(q.consumer()) as other:
            (again,) = await sh(other.claim(timeout=5))
            await sh(again.ack(result="mine"))
    assert await sh(receipt.result(5)) == "mine"


async def test_too_large_or_of_no_kind(sh: Shell, redis: redis_py.Redis) -> None:
    """The message is done, once; and who waits is told what is wrong with the result."""
    q = sh.queue()
    values = [b"x" * (defaults.RESULT_BYTES + 1), object(), msgpack.ExtType(100, b"no date")]
    whys = ("the limit is", "of type object cannot be written", "of type ExtType cannot be read again")
    receipts = [await sh(q.put(n, result=60)) for n in range(3)]
    await work(sh, handler(sh, q, lambda n: values[n]))
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    for receipt, why in zip(receipts, whys, strict=True):
        with pytest.raises(ResultMissing, match=rf"is done, but its result could not be kept: .*{why}"):
            await sh(receipt.result(5))
    assert dead_letters(redis, q) == []


async def test_not_in_time(sh: Shell) -> None:
    """The error says where the message is."""
    q = sh.queue()
    receipt = await sh(q.put(1, result=60))
    with pytest.raises(ResultPending, match=r"within 0.05 s: it is ready \(no consumer .*reliq explain"):
        await sh(receipt.result(0.05))
    assert issubclass(ResultPending, TimeoutError)


async def test_one_that_cannot_come(sh: Shell) -> None:
    """To wait for what nobody has asked for, or what is long over, ends with the reason, whatever the timeout."""
    q = sh.queue(block=0.2)
    unasked = await sh(q.put(1, unique="k"))
    told = await sh(q.put(2, unique="k", result=60))
    assert told == unasked
    with pytest.raises(ResultMissing, match=r"its put did not ask for one"):
        await sh(told.result())
    with pytest.raises(ResultMissing, match=r"the message is nowhere"):
        await sh(q.result("f" * 32, 30))


async def test_an_id_of_ones_own_comes_again(sh: Shell, redis: redis_py.Redis) -> None:
    """Within the hour it is the same message; after that the result of the first is none of the second."""
    q = sh.queue()
    for n in (1, 2):
        receipt = await sh(q.put(n, id="daily", result=7200))
        if n == 2:
            with pytest.raises(ResultPending):
                await sh(receipt.result(0))
        await work(sh, handler(sh, q, lambda body: body * 100))
        assert await sh(q.result("daily", 5)) == n * 100
        redis.delete(q.options.marker("daily"))


async def test_a_handler_that_is_given_a_lease(sh: Shell) -> None:
    """Called with a lease by hand, what it returns is the result; so is what an explicit ack says."""
    q = sh.queue()
    receipts = [await sh(q.put(n, result=60)) for n in range(2)]
    handle = handler(sh, q, lambda n: f"returned {n}")
    async with sh.open(q.consumer(prefetch=2)) as c:
        first, second = await sh(c.claim(1, timeout=5)) + await sh(c.claim(1, timeout=5))
        await sh(handle(first))
        await sh(second.ack(result="said"))
    assert [await sh(receipt.result(5)) for receipt in receipts] == ["returned 0", "said"]


async def test_alone_with_the_queue(sh: Shell) -> None:
    """In the exclusive mode each message of a batch has its own, or its dead letter's."""
    q = sh.queue()
    receipts = [await sh(q.put(n, result=60)) for n in range(3)]
    expired = await sh(q.put(3, result=60, expires=0.001))
    await asyncio.sleep(0.01)
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                first, second, _ = batch.messages
                first.result = "one"
                second.bury("not this one")
    assert await sh(receipts[0].result(5)) == "one"
    assert await sh(receipts[2].result(5)) is None
    for receipt, cause in ((receipts[1], "BURIED"), (expired, "EXPIRED")):
        with pytest.raises(MessageFailed) as failed:
            await sh(receipt.result(5))
        assert failed.value.cause == cause


async def test_in_a_level(sh: Shell) -> None:
    """The receipt knows in which one to ask."""
    q = sh.queue(levels=True)
    receipt = await sh(q.put(1, priority="high", result=60))
    await work(sh, handler(sh, q, lambda body: body + 1))
    assert await sh(receipt.result(5)) == 2
    assert await sh(q.level("high").result(receipt, 5)) == 2


async def test_progress(sh: Shell, redis: redis_py.Redis) -> None:
    """The last report goes with a round trip; explain shows it; only one that has the message in hand reports."""
    q = sh.queue(lease=2)
    receipt = await sh(q.put(1, result=60))
    assert await sh(receipt.progress()) is None
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        for share in (1, 50, {"done": 51, "of": 100}):
            lease.progress(share)
        found = None
        for _ in range(400):
            found = await sh(receipt.progress())
            if found is not None:
                break
            await asyncio.sleep(0.05)
        assert found == {"done": 51, "of": 100}
        assert (await sh(q.explain(receipt))).progress == found
        with pytest.raises(BodyTooLarge, match=r"lease.progress.*a short text"):
            lease.progress("x" * 5000)
        with pytest.raises(BodyError, match=r"lease.progress"):
            lease.progress(object())
        await sh(lease.ack(result="ok"))
    assert await sh(receipt.result(5)) == "ok"
    assert all(redis.pttl(key) > 0 for key in kept(redis, q))
    assert len(kept(redis, q)) == 2


async def test_explain_of_one_that_is_done(sh: Shell) -> None:
    """While its result is kept, it is known to be done."""
    q = sh.queue()
    receipt = await sh(q.put(1, result=60))
    await work(sh, handler(sh, q, lambda body: body))
    explained = await sh(q.explain(receipt))
    assert (explained.state, explained.reason) == ("done", "DONE")
    assert "its result is kept" in explained.why


async def test_a_full_redis(sh: Shell, own_server: Any) -> None:
    """Results are written, and waited for, while Redis takes nothing new."""
    q = sh.queue(url=own_server.url, block=1)
    receipt = await sh(q.put(1, result=60))
    client = own_server.client()
    client.config_set("maxmemory", 1)
    waits = sh.start(receipt.result, 30)
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.ack(result="done"))
    assert await waits == "done"
    client.config_set("maxmemory", 0)
    client.close()


async def test_while_redis_is_away(sh: Shell, own_server: Any) -> None:
    """A short outage is waited through; a long one is an error."""
    q = sh.queue(url=own_server.url, block=0.5, timeout=1)
    receipt = await sh(q.put(1, result=60))
    waits = sh.start(receipt.result, 60)
    await asyncio.sleep(0.2)
    own_server.kill()
    with pytest.raises((Unavailable, reliq.OutcomeUnknown)):
        await waits
    own_server.restart()


async def test_who_stops_waiting_leaves_nothing_behind(sh: Shell, own_server: Any) -> None:
    """A few connections are kept for the next who waits, and closed with the queue; one under way is cut."""
    q = sh.queue(url=own_server.url, block=0.3)
    client = own_server.client()

    def waiting() -> int:
        return sum(each["name"] == "reliq-result" for each in client.client_list())

    receipts = await sh(q.put_many([1] * 6, result=60))
    waits = [sh.start(receipt.result, 20) for receipt in receipts]
    assert await until(lambda: waiting() == 6, seconds=20)
    if sh.name == "aio":
        waits.pop().cancel()
        assert await until(lambda: waiting() == 5, seconds=20)
    await work(sh, handler(sh, q, lambda body: body))
    assert set(await asyncio.gather(*waits)) == {1}
    assert await until(lambda: 1 <= waiting() <= 4, seconds=20)
    await sh.close(q)
    assert await until(lambda: waiting() == 0, seconds=20)
    client.close()


def test_answers_that_nobody_can_read() -> None:
    """Whatever stands there is told of, and raises nothing else."""
    from reliq.core.awaiting import value_of
    from reliq.core.keys import Keys

    for data in (b"\xc1", b"\x80", b"[1]", results.lost("x" * 1000)):
        with pytest.raises(ResultMissing):
            value_of(Keys("q"), bytes(16), data)


async def test_the_ledger_is_quiet(sh: Shell, redis: redis_py.Redis) -> None:
    """To be done as asked is nothing abnormal."""
    q = sh.queue()
    receipt = await sh(q.put(1, result=60))
    await work(sh, handler(sh, q, lambda body: body))
    assert await sh(receipt.result(5)) == 1
    assert await until(lambda: {event for event, _ in events(redis, q)} <= {"start", "stop"})
