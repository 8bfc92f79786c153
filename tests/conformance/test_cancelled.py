"""Messages that are cancelled while somebody has them in hand: told, ended, not handed out again; both shells."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import waiting
from reliq.core.reasons import Reason
from tests.conformance.shell import Shell, dead_letters, events, expire, until
from tests.conformance.test_worker import KINDS, at_work, make
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer

NOTHING = (0, 0, 0, 0)


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the script by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts["call_off"] = waiting._CALL_OFF.sha
        yield running


async def doing(sh: Shell, queue: Any, number: int) -> None:
    """Wait until so many messages are in hand."""
    for _ in range(400):
        if (await sh(queue.size())).doing == number:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"not {number} in hand, but {await sh(queue.size())}")


class Told:
    """A handler that waits until it is told, at most for some seconds."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.told: list[Any] = []
        self.go = threading.Event()

    def __call__(self, body: Any, lease: Any) -> None:
        self.begun.append(body)
        while not self.go.wait(0.02):
            if lease.cancelled:
                self.told.append(body)
                raise ValueError("I was told")


# -- a consumer that a program has opened -------------------------------------------------------------------


@pytest.mark.parametrize("settle", ["retry", "release", "bury", "raise"])
async def test_it_ends_however_it_is_settled(sh: Shell, redis: redis_py.Redis, settle: str) -> None:
    """Its lease says so within a second, it is not handed out again, and explain tells who and when."""
    heard: list[Any] = []
    q = sh.queue(retry=reliq.Retry(attempts=1, on_retry=heard.append, on_dead=heard.append))
    id = await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1, timeout=5))
        assert lease.cancelled is False
        assert await sh(q.cancel(id, by="ada")) is True
        assert await sh(q.cancel(id)) is True, "once more: the same"
        found = await sh(q.explain(id))
        assert (found.state, found.reason) == ("doing", Reason.CANCELLING)
        assert "(ada) has cancelled it" in found.why
        assert await until(lambda: lease.cancelled, seconds=3)
        if settle == "raise":
            async with sh.open(lease):
                raise ValueError("I heard")
        else:
            await sh(getattr(lease, settle)(*(["no"] if settle == "bury" else [])))
        assert await sh(c.claim(1, timeout=0.1)) == []
    assert await sh(q.size()) == NOTHING
    assert heard == []
    found = await sh(q.explain(id))
    assert (found.state, found.reason) == ("cancelled", Reason.CANCELLED)
    assert [each.event for each in found.timeline] == ["id", "call off", "cancel"]
    assert "(ada) cancelled it" in found.why
    assert await sh(q.cancel(id)) is True
    assert redis.hget(q.options.keys.stats, "cancel") == b"1"


async def test_done_is_done(sh: Shell) -> None:
    """A handler that returns all the same has done its work: acked, and nobody says that it was cancelled."""
    q = sh.queue()
    id = await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1, timeout=5))
        assert await sh(q.cancel(id)) is True
        await until(lambda: lease.cancelled, seconds=3)
        await sh(lease.ack())
    assert (await sh(q.explain(id))).state == "done"
    assert await sh(q.cancel(id)) is False


async def test_what_was_claimed_ahead_is_not_handed_over(sh: Shell) -> None:
    """It lies in the consumer's buffer, and ends there; the others come in order."""
    q = sh.queue()
    ids = await sh(q.put_many(range(5)))
    async with sh.open(q.consumer(prefetch=5)) as c:
        [first] = await sh(c.claim(1, timeout=5))
        for n in (1, 3):
            assert await sh(q.cancel(ids[n])) is True
        assert await until(lambda: len(c.state.held) == 3, seconds=3)
        rest = await sh(c.claim(5, timeout=5))
        assert [first.body, *(lease.body for lease in rest)] == [0, 2, 4]
        for lease in [first, *rest]:
            await sh(lease.ack())
    assert await sh(q.size()) == NOTHING


async def test_it_ends_if_its_consumer_dies(sh: Shell, redis: redis_py.Redis) -> None:
    """It is reaped and ends; what that consumer held besides is handed out again."""
    q = sh.queue()
    ids = await sh(q.put_many([1, 2]))
    async with sh.open(q.consumer(prefetch=2)) as c:
        leases = await sh(c.claim(2, timeout=5))
        assert await sh(q.cancel(ids[0])) is True
        expire(redis, q, c)
        assert (await sh(q.explain(ids[0]))).reason is Reason.LEASE_EXPIRED
        await sh(sh.Reaper(q).run_once())
        async with sh.open(q.consumer()) as other:
            [lease] = await sh(other.claim(1, timeout=5))
            assert lease.body == 2
            await sh(lease.ack())
            assert await sh(other.claim(1, timeout=0.1)) == []
        for late in leases:
            with pytest.raises(reliq.LeaseLost):
                await sh(late.retry(delay=0))
    assert await sh(q.size()) == NOTHING
    assert (await sh(q.explain(ids[0]))).state == "cancelled"


async def test_a_large_body_goes_too(sh: Shell, redis: redis_py.Redis) -> None:
    """It lies beside the list; it goes with its message, whoever ends that."""
    q = sh.queue()
    id = await sh(q.put("x" * 200_000))
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1, timeout=5))
        assert await sh(q.cancel(id)) is True
        assert await until(lambda: lease.cancelled, seconds=3)
        await sh(lease.release())
    assert await sh(q.size()) == NOTHING
    assert not list(redis.scan_iter(match=q.options.keys.body(b"") + "*", count=1000))


async def test_lost_reply_of_a_call_off(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Redis ran it and the answer vanished: True all the same; marked once, ended once."""
    q = sh.queue(url=proxy.url)
    id = await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1, timeout=5))
        rule = proxy.on(script="call_off", action=drop_reply())
        assert await sh(q.cancel(id)) is True
        assert rule.hits == 1
        await sh(lease.retry(delay=0))
    assert [event for event, _ in events(redis, q)].count("cancel") == 1
    assert await sh(q.size()) == NOTHING


# -- a worker -----------------------------------------------------------------------------------------------


@KINDS
async def test_a_handler_is_told(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """A plain one by its lease; what it raises is no failure. The worker goes on with the next."""
    q, told = sh.queue(), Told()
    heard: list[Any] = []

    def handle(body: Any, lease: Any) -> None:
        if body == "next":
            told.begun.append(body)
        else:
            told(body, lease)

    once = reliq.Retry(attempts=1, on_retry=heard.append, on_dead=heard.append)
    if kind == "plain":
        handler = make(q, kind, handle, retry=once)
    else:

        @q.ack(retry=once)  # type: ignore[untyped-decorator]
        async def handler(body: Any, lease: Any) -> None:
            told.begun.append(body)
            try:
                await asyncio.sleep(0 if body == "next" else 20)
            except asyncio.CancelledError:
                told.told.append(body)
                assert lease.cancelled
                raise

    id = await sh(q.put("first"))
    async with at_work(sh, sh.Worker(handler, concurrency=1)):
        assert await until(lambda: told.begun == ["first"])
        assert await sh(q.cancel(id)) is True
        assert await until(lambda: told.told == ["first"], seconds=4)
        await sh(q.put("next"))
        assert await until(lambda: told.begun == ["first", "next"])
    assert await sh(q.size()) == NOTHING
    assert heard == []
    assert dead_letters(redis, q) == []
    assert (await sh(q.explain(id))).state == "cancelled"


@KINDS
@pytest.mark.parametrize("levels", [False, True])
async def test_what_no_handler_has_seen_is_never_begun(sh: Shell, kind: str, levels: bool) -> None:
    """It was claimed ahead, as handlers were quick, and waits for a free slot of the worker, or of its level."""
    q, begun, go = sh.queue(levels=levels), list[Any](), asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle(body: Any) -> None:
        begun.append(body)
        if body == "slow":
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)

    if kind == "plain":
        handler = q.ack(handle)
    else:

        @q.ack  # type: ignore[untyped-decorator]
        async def handler(body: Any) -> None:
            await asyncio.to_thread(handle, body) if body == "slow" else handle(body)

    async with at_work(sh, sh.Worker(handler, concurrency=1)):
        await sh(q.put_many([0] * 300))
        assert await until(lambda: len(begun) == 300)
        ids = await sh(q.put_many(["slow", 1, 2]))
        await doing(sh, q, 3)
        assert await sh(q.cancel(ids[1])) is True
        await doing(sh, q, 2)
        go.set()
        assert await until(lambda: len(begun) == 302)
    assert begun[300:] == ["slow", 2]
    assert await sh(q.size()) == NOTHING
    assert (await sh(q.explain(ids[1]))).state == "cancelled"


async def test_a_coroutine_that_does_not_heed_it_is_done(sh: Shell, redis: redis_py.Redis) -> None:
    """It caught the cancellation and returned: acked. The next is not cancelled for it."""
    q, seen = sh.queue(), list[Any]()

    @q.ack(timeout=30)  # type: ignore[untyped-decorator]
    async def handler(body: Any) -> None:
        seen.append(body)
        try:
            await asyncio.sleep(0 if body == 2 else 20)
        except asyncio.CancelledError:
            seen.append("heard")

    id = await sh(q.put(1))
    async with at_work(sh, sh.Worker(handler, concurrency=1)):
        assert await until(lambda: seen == [1])
        assert await sh(q.cancel(id)) is True
        assert await until(lambda: seen == [1, "heard"], seconds=4)
        await sh(q.put(2))
        assert await until(lambda: seen == [1, "heard", 2])
    assert await sh(q.size()) == NOTHING
    assert (await sh(q.explain(id))).state == "done"
    assert redis.hget(q.options.keys.stats, "ack") == b"2"


async def test_a_coroutine_is_cancelled_while_it_waits_for_redis(sh: Shell) -> None:
    """In the middle of a put of its own: the connection is none the worse, and the worker goes on."""
    q, other, begun = sh.queue(), reliq.aio.Queue("other", sh.url, prefix=sh.prefix), list[Any]()

    @q.ack  # type: ignore[untyped-decorator]
    async def handler(body: Any) -> None:
        begun.append(body)
        try:
            while body == 1:
                await other.put(len(begun))
        finally:
            await other.aclose()

    id = await sh(q.put(1))
    async with at_work(sh, sh.Worker(handler, concurrency=2)):
        assert await until(lambda: begun)
        assert await sh(q.cancel(id)) is True
        await doing(sh, q, 0)
        await sh(q.put_many(range(2, 50)))
        assert await until(lambda: len(begun) == 49)
    assert await sh(q.size()) == NOTHING


async def test_a_suspect_that_is_held_back_is_never_begun(sh: Shell, redis: redis_py.Redis) -> None:
    """A worker has died with it, and it waits until nothing else is in hand in this process."""
    a, b, begun, go = sh.queue("a"), sh.queue("b"), list[Any](), threading.Event()

    def slow(body: Any) -> None:
        begun.append(body)
        go.wait(20)

    id = env.uuid7(1_700_000_000_000, bytes(10))
    async with at_work(sh, sh.Worker(a.ack(slow), b.ack(begun.append), concurrency=3)):
        await sh(a.put("slow"))
        assert await until(lambda: begun)
        redis.lpush(b.options.keys.ready, env.pack(id, b"\x01", lost=1))
        await doing(sh, b, 1)
        assert await sh(b.cancel(id.hex())) is True
        await doing(sh, b, 0)
        go.set()
    assert begun == ["slow"]
    assert (await sh(b.explain(id.hex()))).state == "cancelled"
