"""Idempotent handlers: a key that is done is not done again, and no fault leaves one locked, or done by nobody."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core.idempotency import marker
from reliq.errors import ConfigError
from reliq.idempotency import Idempotent, entering, will_be_done
from tests.conformance.shell import Shell, dead_letters, events, expire


def once(sh: Shell, queue: Any, function: Callable[[Any], Any], *, above: bool = False, **options: Any) -> Any:
    """The function as an idempotent handler of this shell; ``above``: the decorator stands above @q.ack."""
    said = {"key": options.pop("key", "order"), **({"ttl": options.pop("ttl")} if "ttl" in options else {})}

    def plain(body: Any) -> Any:
        return function(body)

    async def coroutine(body: Any) -> Any:
        found = function(body)
        return await found if asyncio.iscoroutine(found) else found

    handler: Any = plain if sh.name == "sync" else coroutine
    decorate = reliq.idempotent(**said)
    return decorate(queue.ack(handler, **options)) if above else queue.ack(decorate(handler), **options)


async def work(sh: Shell, *handlers: Any) -> None:
    """Handle all that is ready."""
    await sh(sh.Worker(*handlers, until_empty=True, signals=False).run())


async def work_off(sh: Shell, queue: Any, redis: redis_py.Redis, *handlers: Any) -> None:
    """Handle everything, what waits for later at once."""
    keys = queue.options.keys
    while sum(tuple(await sh(queue.size()))[:3]):
        if redis.zcard(keys.later):
            redis.zadd(keys.later, dict.fromkeys(redis.zrange(keys.later, 0, -1), 1))
        await work(sh, *handlers)


def markers(redis: redis_py.Redis, queue: Any) -> dict[bytes, bytes]:
    """Those that are there, each with an end."""
    keys = list(redis.scan_iter(f"{queue.options.keys.prefix}:*:once:*"))
    assert all(redis.pttl(key) > 0 for key in keys)
    return {key: redis.get(key) for key in keys}


@pytest.mark.parametrize("above", [False, True])
async def test_a_key_that_is_done(sh: Shell, redis: redis_py.Redis, above: bool) -> None:
    """Is not done again: the second message is acked unseen, says so, and has the first one's result."""
    q, seen = sh.queue(), []

    def charge(body: Any) -> str:
        seen.append(body["n"])
        return f"charge {len(seen)}"

    handler = once(sh, q, charge, above=above)
    first = await sh(q.put({"order": 7, "n": 1}, result=60))
    await work(sh, handler)
    second = await sh(q.put({"order": 7, "n": 2}, result=60))
    third = await sh(q.put({"order": 8, "n": 3}, result=60))
    await work(sh, handler)
    assert seen == [1, 3]
    assert [await sh(r.result(5)) for r in (first, second, third)] == ["charge 1", "charge 1", "charge 2"]
    assert ("repeat", first) in events(redis, q)
    redis.delete(q.options.keys.result(bytes.fromhex(second)))
    explained = await sh(q.explain(second))
    assert explained.state == "done"
    assert explained.why == f"{first} had done the same idempotency key; no handler got it"
    assert explained.timeline[-1].told == f"not handled: {first} had done the same idempotency key"
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    assert len(markers(redis, q)) == 2


async def test_for_its_time(sh: Shell, redis: redis_py.Redis) -> None:
    """Then the key is free again; and called by hand the function is the function."""
    q, seen = sh.queue(), []
    handler = once(sh, q, seen.append, ttl=0.05)
    for n in range(2):
        await sh(q.put({"order": 1, "n": n}))
        await work(sh, handler)
        await asyncio.sleep(0.1)
    assert [body["n"] for body in seen] == [0, 1]
    assert markers(redis, q) == {}
    await sh(handler({"order": 1, "n": 2}))
    assert len(seen) == 3


async def test_while_another_one_is_in_hand(sh: Shell, redis: redis_py.Redis) -> None:
    """It is released, and comes back; when the first is done, no handler gets it."""
    q, seen = sh.queue(), []
    handler = once(sh, q, lambda body: seen.append(body["n"]))
    ids = [await sh(q.put({"order": "a", "n": n})) for n in range(2)]
    async with sh.open(q.consumer(prefetch=2)) as c:
        (first,) = await sh(c.claim(timeout=5))
        (second,) = await sh(c.claim(timeout=5))
        mark = marker(q.options.keys, "", "a")
        assert (await sh(q.links.insist(entering(first, mark, 60)))).how == ""
        await sh(handler(second))  # while the first is at work
        assert seen == []
        assert (await sh(q.explain(ids[1]))).reason == "RELEASE_BACKOFF"
        await sh(handler(first))  # to ask again changes nothing
    assert seen == [0]
    await work_off(sh, q, redis, handler)
    assert seen == [0]
    assert ("repeat", ids[0]) in events(redis, q)


async def test_an_attempt_that_failed(sh: Shell, redis: redis_py.Redis) -> None:
    """Leaves the key free: for the next attempt, and when the message is dead, for the next message."""
    q, seen = sh.queue(retry=reliq.Retry(attempts=2, wait=0)), []

    def fail(body: Any) -> None:
        seen.append(body["n"])
        if body["n"] == 0:
            raise ValueError("no")

    handler = once(sh, q, fail)
    await sh(q.put({"order": 1, "n": 0}))
    while not dead_letters(redis, q):
        await work(sh, handler)
    assert seen == [0, 0]
    await sh(q.put({"order": 1, "n": 1}))
    await work(sh, handler)
    assert seen == [0, 0, 1]
    assert [value[:1] for value in markers(redis, q).values()] == [b"d"]


async def test_a_worker_that_died(sh: Shell, redis: redis_py.Redis) -> None:
    """What it had in hand locks nothing once that was brought back; its late ack leaves no marker."""
    q, seen = sh.queue(), []
    handler = once(sh, q, lambda body: seen.append(body["n"]))
    await sh(q.put({"order": 1, "n": 0}))
    async with sh.open(q.consumer()) as zombie:
        (held,) = await sh(zombie.claim(timeout=5))
        mark = marker(q.options.keys, "", "1")
        await sh(q.links.insist(entering(held, mark, 60)))
        will_be_done(held, mark, 60)
        await sh(q.put({"order": 1, "n": 1}))
        await work(sh, handler)
        assert seen == []  # it is in hand, as far as anybody knows
        expire(redis, q, zombie)
        await sh(sh.Reaper(q).run_once())
        assert (await sh(q.links.insist(entering(held, mark, 60)))).how == "lost"
        with pytest.raises(reliq.LeaseLost):
            await sh(held.ack())
        assert [value[:1] for value in markers(redis, q).values()] == [b"p"]
    await work_off(sh, q, redis, handler)
    assert len(seen) == 1
    assert [value[:1] for value in markers(redis, q).values()] == [b"d"]


async def test_what_is_lost_is_not_begun(sh: Shell, redis: redis_py.Redis) -> None:
    """A message that was given to somebody else meanwhile gets into no handler."""
    q, seen = sh.queue(), []
    handler = once(sh, q, seen.append)
    await sh(q.put({"order": 1}))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        expire(redis, q, c)
        await sh(sh.Reaper(q).run_once())
        with pytest.raises(reliq.LeaseLost):
            await sh(handler(lease))
    assert seen == []


async def test_an_ack_by_hand(sh: Shell, redis: redis_py.Redis) -> None:
    """In the handler, before it returns: the key is done with that."""
    q, seen = sh.queue(), []
    decorate = reliq.idempotent(key="order")

    def plain(body: Any, lease: reliq.Lease) -> None:
        seen.append(body)
        lease.ack(result="early")

    async def coroutine(body: Any, lease: Any) -> None:
        seen.append(body)
        await lease.ack(result="early")

    handler = q.ack(decorate(plain if sh.name == "sync" else coroutine))
    receipts = [await sh(q.put({"order": 1}, result=60)) for _ in range(2)]
    await work_off(sh, q, redis, handler)
    assert len(seen) == 1
    assert [await sh(receipt.result(5)) for receipt in receipts] == ["early", "early"]


@dataclasses.dataclass
class Order:
    """A body by its fields."""

    order: int


@pytest.mark.parametrize(
    ("key", "body", "text"),
    [
        ("order", {"order": "x"}, "x"),
        ("order", Order(7), "7"),
        (lambda body: f"{body['shop']}/{body['order']}", {"shop": 1, "order": 2}, "1/2"),
    ],
)
def test_keys(key: Any, body: Any, text: str) -> None:
    """A field of a map or of an object, or what a function says."""
    assert Idempotent(key, 1.0).text(body) == text


@pytest.mark.parametrize("body", [{}, {"order": None}, {"order": ""}, {"order": "x" * 501}, {"order": 1.5}, 7])
async def test_a_body_without_a_key(sh: Shell, redis: redis_py.Redis, body: Any) -> None:
    """Is a failed attempt, which says what is missing; no handler gets it."""
    q, seen = sh.queue(), []
    await sh(q.put(body))
    await work(sh, once(sh, q, seen.append, retry=reliq.Retry(attempts=1)))
    [(note, _)] = dead_letters(redis, q)
    assert note["error"].startswith("ConfigError: idempotent(key='order'): ")
    assert seen == []


async def test_a_key_that_utf_8_cannot_carry(sh: Shell, redis: redis_py.Redis) -> None:
    """JSON can say it, and so it is a key like any other."""
    q, seen = sh.queue(codec="json"), list[Any]()
    redis.lpush(q.options.keys.ready, b'{"order": "\\ud800"}', b'{"order": "\\ud801"}', b'{"order": "\\ud800"}')
    await work_off(sh, q, redis, once(sh, q, seen.append))
    assert sorted(body["order"] for body in seen) == ["\ud800", "\ud801"]
    assert dead_letters(redis, q) == []


def test_what_the_decorator_takes() -> None:
    """What is no key or no time is refused where it is written, and so is a function that cannot carry it."""
    for bad in ("", None, 7):
        with pytest.raises(ConfigError, match=r"idempotent\(key="):
            reliq.idempotent(key=bad)  # type: ignore[arg-type]
    for ttl in (0, -1, "60", True, float("inf")):
        with pytest.raises(ConfigError, match=r"idempotent\(ttl="):
            reliq.idempotent(key="k", ttl=ttl)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"put the decorator above @q.ack"):
        reliq.idempotent(key="k")(len)
    reliq.idempotent(key="k")(partial(print))


async def test_types_and_levels_have_keys_of_their_own(sh: Shell) -> None:
    """To charge order 7 is not to ship it, and what is done in one level is not in another."""
    q, seen = sh.queue(levels=True), []
    for type in ("charge", "ship"):
        await sh(q.put({"order": 7}, type=type))
    handlers = [once(sh, q, lambda body, t=type: seen.append(t), type=type) for type in ("charge", "ship")]
    await work(sh, *handlers)
    await sh(q.put({"order": 7}, type="ship", priority="high"))
    await work(sh, *handlers)
    assert sorted(seen) == ["charge", "ship", "ship"]


async def test_a_large_answer_is_not_kept_with_the_key(sh: Shell) -> None:
    """The first has its result; who comes later is told why there is none."""
    q = sh.queue()
    handler = once(sh, q, lambda body: "x" * 10_000)
    first = await sh(q.put({"order": 1}, result=60))
    await work(sh, handler)
    second = await sh(q.put({"order": 1}, result=60))
    await work(sh, handler)
    assert await sh(first.result(5)) == "x" * 10_000
    with pytest.raises(reliq.ResultMissing, match=r"of which 4 kB are kept"):
        await sh(second.result(5))


async def test_while_redis_does_not_answer(sh: Shell, own_server: Any) -> None:
    """Nobody knows whether it was done, so it is put back, and no attempt is counted."""
    q, seen = sh.queue(url=own_server.url, timeout=0.5, block=0.2), []
    handler = once(sh, q, seen.append)
    receipt = await sh(q.put({"order": 1}))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        own_server.suspend()
        running = sh.start(handler, lease)
        await asyncio.wait([running], timeout=30)  # for its release, too, it waits in vain
        own_server.resume()
        assert running.done()
        assert isinstance(running.exception(), reliq.OutcomeUnknown | type(None))
    assert seen == []
    explained = await sh(q.explain(receipt))
    assert (explained.failed, explained.state in ("ready", "later")) == (0, True)


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_under_either_worker(sh: Shell, server: Any, prefix: str, kind: str) -> None:
    """Functions and coroutines of this shell's queue, in the worker of this shell and in a blocking one."""
    q, did = sh.queue(), list[Any]()

    def plain(body: Any) -> None:
        did.append(body["k"])

    async def coroutine(body: Any) -> None:
        did.append(body["k"])

    handler = q.ack(reliq.idempotent(key="k")(plain if kind == "plain" else coroutine))
    for n, worker in enumerate((sh.Worker, reliq.Worker)):
        await sh(q.put_many([{"k": n}, {"k": n}]))
        run = worker(handler, until_empty=True, signals=False, concurrency=1).run
        await (sh.start(run) if worker is sh.Worker else asyncio.to_thread(run))
        assert did == list(range(n + 1))


def test_a_coroutine_under_a_blocking_worker(server: Any, prefix: str) -> None:
    """reliq.Worker runs it in an event loop, and asks Redis beside that."""
    q = reliq.Queue("q", server.url, prefix=prefix)
    seen: list[Any] = []

    @q.ack
    @reliq.idempotent(key="order")
    async def handle(body: Any) -> str:
        seen.append(body)
        return "once"

    receipts = q.put_many([{"order": 1}] * 3, result=60)
    reliq.Worker(handle, until_empty=True, concurrency=1, signals=False).run()
    assert [receipt.result(10) for receipt in receipts] == ["once"] * 3  # type: ignore[attr-defined]
    assert len(seen) == 1
    q.close()


async def test_two_with_one_id(sh: Shell, redis: redis_py.Redis) -> None:
    """An id may be put again after its window: while the first is in hand, the second is not begun either."""
    q, seen = sh.queue(), list[Any]()
    handler = once(sh, q, lambda body: seen.append(body["n"]))
    id = await sh(q.put({"order": "a", "n": 0}))
    (element,) = redis.lrange(q.options.keys.ready, 0, -1)
    redis.lpush(q.options.keys.ready, env.bump(env.unpack(element), released=1))
    async with sh.open(q.consumer(prefetch=2)) as c:
        (first,) = await sh(c.claim(timeout=5))
        (second,) = await sh(c.claim(timeout=5))
        assert first.id == second.id == id
        mark = marker(q.options.keys, "", "a")
        assert (await sh(q.links.insist(entering(first, mark, 60)))).how == ""
        assert (await sh(q.links.insist(entering(second, mark, 60)))).how == "busy"
        await sh(handler(second))
        assert seen == []
        await sh(handler(first))
    await work_off(sh, q, redis, handler)
    assert seen == [0]
