"""Handlers that take a list, through one set of tests: both shells, plain and coroutine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from tests.conformance.shell import Shell, dead_letters, events, until

KINDS = pytest.mark.parametrize("kind", ["plain", "coroutine"])
QUICK = reliq.Retry(attempts=3, wait=0.01)


def make(queue: Any, kind: str, function: Callable[[list[Any], list[Any]], Any], **options: Any) -> Any:
    """A handler of the given kind around a plain function of (bodies, leases)."""
    if kind == "plain":

        def plain(bodies: Any, leases: Any) -> None:
            function(bodies, leases)

        return queue.ack(plain, **{"batch": 10, **options})

    async def coroutine(bodies: Any, leases: Any) -> None:
        await asyncio.sleep(0)
        if (settles := function(bodies, leases)) is not None:
            await settles

    return queue.ack(coroutine, **{"batch": 10, **options})


async def run(sh: Shell, *handlers: Any, **options: Any) -> None:
    """Run a worker until its queues are empty."""
    await sh.start(sh.Worker(*handlers, until_empty=True, **options).run)


@KINDS
@pytest.mark.parametrize("leases", [True, False], ids=["with leases", "bodies"])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_every_message_is_handled_once(sh: Shell, kind: str, leases: bool, concurrency: int) -> None:
    """In lists of at most so many, in order, and all but the last ones full."""
    queue, lists = sh.queue(), list[list[int]]()
    await sh(queue.put_many(range(1005)))
    if leases:
        handler = make(queue, kind, lambda bodies, leases: lists.append(bodies), batch=100)
    elif kind == "plain":
        handler = queue.ack(lambda bodies: lists.append(bodies), batch=100)
    else:

        async def take(bodies: list[int]) -> None:
            lists.append(bodies)

        handler = queue.ack(take, batch=100)
    await run(sh, handler, concurrency=concurrency)
    assert Counter(body for bodies in lists for body in bodies) == dict.fromkeys(range(1005), 1)
    assert all(bodies == sorted(bodies) for bodies in lists)
    assert max(map(len, lists)) == 100
    assert len(lists) <= 20
    assert await sh(queue.size()) == (0, 0, 0, 0)


@KINDS
async def test_an_exception_is_a_failed_attempt_of_each(
    sh: Shell, redis: redis_py.Redis, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All come again, and are dead-lettered by the policy; one record tells of all."""
    queue, seen = sh.queue(), Counter[int]()

    def fail(bodies: list[int], leases: list[Any]) -> None:
        seen.update(bodies)
        raise ValueError("no")

    await sh(queue.put_many(range(5)))
    handler = make(queue, kind, fail, retry=QUICK)
    with caplog.at_level(logging.WARNING, "reliq"):
        while (await sh(queue.size())).dead < 5:
            await run(sh, handler)
    assert seen == dict.fromkeys(range(5), 3)
    assert {note["cause"] for note, _ in dead_letters(redis, queue)} == {"ATTEMPTS"}
    assert {env.unpack(element).failed for _, element in dead_letters(redis, queue)} == {3}
    assert "messages of a batch failed" in caplog.text


@KINDS
async def test_those_that_failed_can_be_named(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """By index or id, each with its own exception, which is judged as usual; the others are done."""
    queue, lists = sh.queue(), list[list[Any]]()

    def fail(bodies: list[Any], leases: list[Any]) -> None:
        lists.append(bodies)
        failures: dict[int | str, BaseException | str] = {}
        for n, (body, lease) in enumerate(zip(bodies, leases, strict=True)):
            if body == "bury":
                failures[n] = reliq.Bury("no such account")
            elif body == "once" and lease.attempt == 1:
                failures[lease.id] = "not yet"
        raise reliq.BatchFailed(failures)

    await sh(queue.put_many(["a", "bury", "b", "once", "c"]))
    handler = make(queue, kind, fail, retry=QUICK, batch=5)
    while sum(await sh(queue.size())) > 1 or len(lists) < 2:
        await run(sh, handler)
    assert lists == [["a", "bury", "b", "once", "c"], ["once"]]
    [(note, _)] = dead_letters(redis, queue)
    assert (note["cause"], note["error"]) == ("BURIED", "no such account")


async def test_named_wrongly_all_have_failed(sh: Shell, redis: redis_py.Redis) -> None:
    """And the reason says what is wrong: nobody knows which were meant."""
    queue = sh.queue()

    def fail(bodies: list[Any]) -> None:
        raise reliq.BatchFailed({7: "?"})

    await sh(queue.put_many(["a", "b"]))
    await run(sh, queue.ack(fail, batch=5, retry=reliq.Retry(attempts=1)))
    errors = [note["error"] for note, _ in dead_letters(redis, queue)]
    assert errors == ["TypeError: BatchFailed names 7, which is neither an index nor an id of its batch"] * 2


def test_what_each_failed_with() -> None:
    """An exception, its class as after ``raise``, or a text; and it is said by index or id, not by a list."""
    failed = reliq.BatchFailed({0: reliq.Bury, "1f": ConnectionError("busy"), 2: "why"}).failures
    assert isinstance(failed[0], reliq.Bury)
    assert list(map(repr, failed.values()))[1:] == ["ConnectionError('busy')", "RuntimeError('why')"]
    assert str(reliq.BatchFailed({0: "why"})) == "1 message of a batch failed"
    with pytest.raises(TypeError, match=r"BatchFailed\(\[0, 1\]\): what failed, by index or id, as in"):
        reliq.BatchFailed([0, 1])  # type: ignore[arg-type]


@KINDS
async def test_what_the_handler_has_settled_stays_so(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """By its lease; the outcome is for the others."""
    queue, lists = sh.queue(), list[list[Any]]()

    def some(bodies: list[Any], leases: list[Any]) -> Any:
        lists.append(bodies)
        by_body = dict(zip(bodies, leases, strict=True))
        if "first" not in by_body:
            return None
        verbs = [by_body["first"].ack, lambda: by_body["second"].bury("no"), by_body["third"].release]
        if kind == "plain":
            for verb in verbs:
                verb()
            raise ValueError("what is left")

        async def settle() -> None:
            for verb in verbs:
                await verb()
            raise ValueError("what is left")

        return settle()

    await sh(queue.put_many(["first", "second", "third", "fourth"]))
    handler = make(queue, kind, some, retry=QUICK)
    # In the asyncio shell plain handlers have leases with blocking verbs, too.
    while sum(await sh(queue.size())) > 1 or sum(map(len, lists)) < 6:
        await run(sh, handler)
    assert lists[0] == ["first", "second", "third", "fourth"]
    assert sorted(body for bodies in lists[1:] for body in bodies) == ["fourth", "third"]
    [(note, _)] = dead_letters(redis, queue)
    assert (note["cause"], note["error"]) == ("BURIED", "no")


@KINDS
async def test_a_batch_waits_for_more(sh: Shell, kind: str) -> None:
    """So long after its first message, or until it is full; without wait= it does not."""
    queue, lists = sh.queue(), list[list[int]]()
    took: list[float] = []

    def note(bodies: list[int], leases: list[Any]) -> None:
        lists.append(bodies)
        took.append(time.monotonic() - began)

    worker = sh.Worker(make(queue, kind, note, batch=3, wait=0.5))
    task = sh.start(worker.run)
    try:
        began = time.monotonic()
        for n in range(3):
            await sh(queue.put(n))
            await asyncio.sleep(0.02)
        assert await until(lambda: lists == [[0, 1, 2]], seconds=20)
        assert took[0] < 0.5 or took[0] > 5.0  # at once, unless the machine has stood still
        began = time.monotonic()
        await sh(queue.put(3))
        assert await until(lambda: len(lists) == 2, seconds=20)
        assert lists[1] == [3]
        assert took[1] > 0.45
    finally:
        worker.stop()
        await task


@KINDS
async def test_while_slots_are_taken_a_batch_fills_up(sh: Shell, kind: str) -> None:
    """What comes meanwhile is handed over together, though nothing is to be waited for."""
    queue, lists = sh.queue(), list[list[int]]()
    free = threading.Event()

    def hold(bodies: list[int], leases: list[Any]) -> Any:
        lists.append(bodies)
        if kind == "plain":
            free.wait(20)
            return None
        return asyncio.to_thread(free.wait, 20)

    worker = sh.Worker(make(queue, kind, hold, batch=50), concurrency=1)
    task = sh.start(worker.run)
    try:
        await sh(queue.put(0))
        assert await until(lambda: lists == [[0]], seconds=20)
        for n in range(1, 11):
            await sh(queue.put(n))
        free.set()
        assert await until(lambda: sum(map(len, lists)) == 11, seconds=20)
        assert len(lists) == 2
    finally:
        free.set()
        worker.stop()
        await task


@KINDS
async def test_what_waits_goes_back_in_order_at_the_end(sh: Shell, kind: str) -> None:
    """Uncounted: no handler has seen it."""
    queue = sh.queue()
    worker = sh.Worker(make(queue, kind, lambda bodies, leases: None, batch=100, wait=60.0))
    task = sh.start(worker.run)
    await sh(queue.put_many(range(20)))
    for _ in range(1000):
        if (await sh(queue.size())).doing == 20:
            break
        await asyncio.sleep(0.02)
    worker.stop()
    await task
    assert await sh(queue.size()) == (20, 0, 0, 0)
    assert await sh.drain(queue) == list(range(20))


@KINDS
async def test_a_timeout_is_of_the_batch(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """Coroutines are cancelled, and each message has failed; a thread that comes back late has done its work."""
    queue, lists = sh.queue(), list[list[int]]()

    def slow(bodies: list[int], leases: list[Any]) -> Any:
        lists.append(bodies)
        assert 0 < leases[0].remaining <= 0.2
        return time.sleep(0.4) if kind == "plain" else asyncio.sleep(30)

    await sh(queue.put_many(range(3)))
    await run(sh, make(queue, kind, slow, timeout=0.2, retry=reliq.Retry(attempts=1)))
    assert lists == [[0, 1, 2]]
    notes = [note["error"] for note, _ in dead_letters(redis, queue)]
    assert notes == ([] if kind == "plain" else ["TimeoutError: took longer than its timeout of 0.2 s"] * 3)
    assert await sh(queue.size()) == (0, 0, 0, len(notes))


@dataclass
class Item:
    n: int


@KINDS
async def test_what_does_not_belong_is_left_out(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """Undecodable, expired, not of the annotated class: dead letters, and the others are a batch; large bodies and
    unique ones are in it."""
    queue, lists = sh.queue(claim_check=1024), list[list[Any]]()

    def keep(bodies: list[Item], leases: list[Any]) -> None:
        lists.append(bodies)
        assert [lease.body["n"] for lease in leases] == [body.n for body in bodies]

    handler = make(queue, kind, keep)
    handler = queue.ack(_annotated(handler.function), batch=10)
    await sh(queue.put({"n": 1}))
    await sh(queue.put({"n": "no number"}))
    redis.lpush(queue.options.keys.ready, env.pack(bytes(16), b"\xc1"))
    await sh(queue.put({"n": 2, "more": "x" * 5000}))
    await sh(queue.put({"n": 3}, expires=0.001))
    await sh(queue.put({"n": 4}, unique="u"))
    await asyncio.sleep(0.05)
    await run(sh, handler, concurrency=2)
    assert sorted(body.n for bodies in lists for body in bodies) == [1, 2, 4]
    causes = sorted(note["cause"] for note, _ in dead_letters(redis, queue))
    assert causes == ["EXPIRED", "UNDECODABLE", "UNDECODABLE"]
    assert await sh(queue.size()) == (0, 0, 0, 3)
    assert not redis.keys(f"{sh.prefix}:*:body:*")
    assert (await sh(queue.put({"n": 5}, unique="u"))).added


@dataclass
class Exits:
    """Ends the program, as a class should not."""

    n: int

    def __post_init__(self) -> None:
        if self.n == 2:
            raise SystemExit("no")


@KINDS
async def test_a_class_that_exits(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """That one message has failed, and each is settled once."""
    queue, lists = sh.queue(retry=reliq.Retry(attempts=1)), list[list[Any]]()
    handler = make(queue, kind, lambda bodies, leases: lists.append(bodies))
    handler.function.__annotations__["bodies"] = list[Exits]
    await sh(queue.put_many([{"n": n} for n in ("no number", 1, 2, 3)]))
    await asyncio.wait_for(run(sh, queue.ack(handler.function, batch=10), signals=False), 20)
    assert lists == [[Exits(1), Exits(3)]]
    assert sorted(note["cause"] for note, _ in dead_letters(redis, queue)) == ["ATTEMPTS", "UNDECODABLE"]
    assert sorted(event for event, _ in events(redis, queue)) == ["bury", "bury", "start", "stop"]


def _annotated(function: Any) -> Any:
    function.__annotations__["bodies"] = list[Item]
    return function


async def test_nothing_may_be_left_of_it(sh: Shell) -> None:
    """Then no handler is called."""
    queue, lists = sh.queue(), list[list[Any]]()

    async def coroutine(bodies: Any) -> None:
        lists.append(bodies)

    await sh(queue.put_many(["x", "y"]))
    await run(sh, queue.ack(_annotated(coroutine), batch=10))
    await sh(queue.put_many(["x", "y"]))
    await run(sh, queue.ack(_annotated(lambda bodies: lists.append(bodies)), batch=10))
    assert lists == []
    assert await sh(queue.size()) == (0, 0, 0, 4)


@KINDS
async def test_one_of_a_batch_is_cancelled(sh: Shell, kind: str) -> None:
    """In hand its lease says so, and a failure ends it; the others come again. One that waits ends there."""
    queue, lists, told = sh.queue(), list[list[Any]](), list[Any]()

    def wait(bodies: list[Any], leases: list[Any]) -> Any:
        lists.append(bodies)
        if "gone" not in bodies:
            return None
        lease = leases[bodies.index("gone")]

        def told_of_it() -> bool:
            deadline = time.monotonic() + 20
            while not lease.cancelled and time.monotonic() < deadline:
                time.sleep(0.01)
            told.append([each.cancelled for each in leases])
            raise ValueError("stopped")

        return told_of_it() if kind == "plain" else asyncio.to_thread(told_of_it)

    ids = await sh(queue.put_many(["a", "gone", "b"]))
    worker = sh.Worker(make(queue, kind, wait, retry=QUICK, wait=0.2))
    task = sh.start(worker.run)
    try:
        assert await until(lambda: lists, seconds=20)
        assert await sh(queue.cancel(ids[1]))
        assert await until(lambda: sum(map(len, lists)) == 5, seconds=20)
        assert told == [[False, True, False]]
        assert sorted(body for bodies in lists[1:] for body in bodies) == ["a", "b"]
    finally:
        worker.stop()
        await task
    assert await sh(queue.size()) == (0, 0, 0, 0)

    worker = sh.Worker(make(queue, kind, wait, wait=60.0))
    task = sh.start(worker.run)
    waits = await sh(queue.put("waits"))
    try:
        for _ in range(1000):
            if (await sh(queue.size())).doing == 1:
                break
            await asyncio.sleep(0.02)
        assert await sh(queue.cancel(waits))
        for _ in range(1000):
            if sum(await sh(queue.size())) == 0:
                break
            await asyncio.sleep(0.02)
        assert await sh(queue.size()) == (0, 0, 0, 0)
    finally:
        worker.stop()
        await task


@KINDS
async def test_a_suspect_is_a_batch_of_its_own(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """What a worker has died with is handed out alone, by nothing that waits kept from that."""
    queue, lists = sh.queue(), list[list[Any]]()
    for n in range(3):
        element = env.pack(bytes(15) + bytes([n]), msgpack.packb(n))
        redis.lpush(queue.options.keys.ready, element[: env.LOST_AT] + b"\x01" + element[env.LOST_AT + 1 :])
    await sh(queue.put_many(range(3, 8)))
    await run(sh, make(queue, kind, lambda bodies, leases: lists.append(bodies)))
    assert lists == [[0], [1], [2], [3, 4, 5, 6, 7]]


@KINDS
async def test_with_other_handlers_in_one_worker(sh: Shell, kind: str) -> None:
    """Of other queues, by weights, and of the same queue by type; traced messages, too."""
    queue, other = sh.queue(trace=True), sh.queue("other")
    lists, seen = list[list[Any]](), list[Any]()
    batches = make(queue, kind, lambda bodies, leases: lists.append(bodies), type="many")
    single = queue.ack(lambda body: seen.append(body), type="one")
    more = other.ack(lambda body: seen.append(body))
    for n in range(50):
        await sh(queue.put(n, type="many"))
        await sh(queue.put(n, type="one"))
    await sh(other.put_many(range(50)))
    await run(sh, batches, single, more, concurrency=2, weights={"other": 3})
    assert Counter(body for bodies in lists for body in bodies) == dict.fromkeys(range(50), 1)
    assert Counter(seen) == dict.fromkeys(range(50), 2)
    assert max(map(len, lists)) > 1
    assert tuple(await sh(queue.size())) == tuple(await sh(other.size())) == (0, 0, 0, 0)


async def test_levels_and_batches(sh: Shell) -> None:
    """Each level has its own."""
    queue, lists = sh.queue(levels=True), list[list[Any]]()
    for level in ("low", "high", "normal"):
        await sh(queue.put_many([level] * 25, priority=level))
    await run(sh, queue.ack(lambda bodies: lists.append(bodies), batch=10), concurrency=1)
    assert Counter(body for bodies in lists for body in bodies) == {"low": 25, "high": 25, "normal": 25}
    assert all(len(set(bodies)) == 1 for bodies in lists)
    assert len(lists) <= 12


async def test_a_lease_that_is_given_to_it(sh: Shell) -> None:
    """A pulling consumer may hand one over: a list of one."""
    queue, lists = sh.queue(), list[list[Any]]()
    await sh(queue.put("x"))
    if sh.name == "sync":
        handler = queue.ack(lambda bodies: lists.append(bodies), batch=10)
    else:

        async def coroutine(bodies: Any) -> None:
            lists.append(bodies)

        handler = queue.ack(coroutine, batch=10)
    async with sh.open(queue.consumer()) as consumer:
        [lease] = await sh(consumer.claim(timeout=5))
        await sh(handler(lease))
    assert lists == [["x"]]
    assert await sh(queue.size()) == (0, 0, 0, 0)


async def test_a_worker_tells_what_each_slot_has(sh: Shell) -> None:
    """`explain` knows each message of a batch as handled, with the stack of its handler."""
    queue, free, begun = sh.queue(), threading.Event(), threading.Event()

    def hold(bodies: list[Any]) -> None:
        begun.set()
        free.wait(20)

    ids = await sh(queue.put_many(range(3)))
    worker = sh.Worker(queue.ack(hold, batch=3))
    task = sh.start(worker.run)
    try:
        assert await until(begun.is_set, seconds=20)
        found = await sh(queue.explain(ids[2], stack=True))
        assert "free.wait(20)" in str(found)
    finally:
        free.set()
        worker.stop()
        await task


@KINDS
async def test_results_and_middleware(sh: Shell, kind: str) -> None:
    """A list of as many has a result for each; what its lease was told counts more. Middleware sees the list."""

    class Around:
        seen: list[Any] = []  # noqa: RUF012

        def handle(self, delivery: Any, call_next: Any) -> Any:
            self.seen.append((delivery.id, delivery.body))
            return call_next()

        async def ahandle(self, delivery: Any, call_next: Any) -> Any:
            self.seen.append((delivery.id, delivery.body))
            return await call_next()

    queue = sh.queue(middleware=[Around()])
    receipts = [await sh(queue.put(n, result=60)) for n in range(3)]

    def double(bodies: list[int], leases: list[Any]) -> list[int]:
        leases[2].answer("its own")
        return [2 * body for body in bodies]

    async def coroutine(bodies: list[int], leases: list[Any]) -> list[int]:
        return double(bodies, leases)

    await run(sh, queue.ack(double if kind == "plain" else coroutine, batch=3))
    assert [await sh(receipt.result(5)) for receipt in receipts] == [0, 2, "its own"]
    assert Around.seen == [(receipts[0], [0, 1, 2])]


@KINDS
async def test_dependencies(sh: Shell, kind: str) -> None:
    """Go to handlers of batches as to others."""
    queue, seen = sh.queue(), list[Any]()

    def plain(bodies: Any, leases: Any, *, factor: reliq.Dependency[int]) -> None:
        seen.extend(factor * body for body in bodies)

    async def coroutine(bodies: Any, *, factor: reliq.Dependency[int]) -> None:
        seen.extend(factor * body for body in bodies)

    await sh(queue.put_many(range(3)))
    handler = queue.ack(plain if kind == "plain" else coroutine, batch=3)
    await run(sh, handler, lifespan=lambda: contextlib.nullcontext({"factor": 10}))
    assert seen == [0, 10, 20]


async def test_ordering_keys(sh: Shell) -> None:
    """At most one of each key in a list, and each key in order."""
    queue, lists = sh.queue(), list[list[Any]]()
    for n in range(8):
        for key in "abc":
            await sh(queue.put((key, n), ordering_key=key))
    await run(sh, queue.ack(lambda bodies: lists.append(bodies), batch=10), concurrency=2)
    assert all(len({key for key, _ in bodies}) == len(bodies) for bodies in lists)
    for wanted in "abc":
        assert [n for bodies in lists for key, n in bodies if key == wanted] == list(range(8))


@pytest.mark.parametrize("how", ["limit", "pause", "quiet"])
async def test_what_gathers_does_not_wait_for_what_cannot_come(sh: Shell, how: str) -> None:
    """A limit below the size of a batch is reached, the queue is paused, the worker claims no more."""
    queue, lists = sh.queue(), list[list[Any]]()
    if how == "limit":
        await sh(queue.limit(concurrency=3))
    await sh(queue.put_many(range(3)))
    worker = sh.Worker(queue.ack(lambda bodies: lists.append(bodies), batch=10, wait=600.0))
    task = sh.start(worker.run)
    try:
        for _ in range(1000):
            if (await sh(queue.size())).doing == 3:
                break
            await asyncio.sleep(0.02)
        if how == "limit":
            await sh(queue.put(3))
        elif how == "pause":
            await sh(queue.pause())
            await sh(queue.put(3))
        else:
            loop = worker._loop if sh.name == "aio" else worker._stop.__self__
            loop.be_quiet()
            loop.wake()
        assert await until(lambda: lists and lists[0] == [0, 1, 2], seconds=20)
    finally:
        worker.stop()
        await task


async def test_a_class_that_fails_on_a_body(sh: Shell, redis: redis_py.Redis) -> None:
    """With more than that it does not fit: that one message has failed, by the policy."""
    queue, lists = sh.queue(), list[list[Any]]()
    await sh(queue.put_many([{"n": 1}, {"n": 2}]))
    handler = queue.ack(_annotated(lambda bodies: lists.append(bodies)), batch=10, retry=reliq.Retry(attempts=1))

    def fit(body: Any) -> Any:
        if body["n"] == 1:
            raise OSError("the class wants a file")
        return body

    handler.fit = fit
    await run(sh, handler)
    assert lists == [[{"n": 2}]]
    [(note, _)] = dead_letters(redis, queue)
    assert (note["cause"], note["error"]) == ("ATTEMPTS", "OSError: the class wants a file")


async def test_a_coroutine_is_interrupted_if_all_of_its_batch_is_cancelled(sh: Shell) -> None:
    """Not before: others of it are still to be done."""
    queue, interrupted, begun = sh.queue(), list[Any](), threading.Event()

    async def wait(bodies: list[Any]) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            interrupted.append(bodies)
            raise

    ids = await sh(queue.put_many(["a", "b"]))
    worker = sh.Worker(queue.ack(wait, batch=2))
    task = sh.start(worker.run)
    try:
        assert await until(begun.is_set, seconds=20)
        assert await sh(queue.cancel(ids[0]))
        await asyncio.sleep(0.2)
        assert not interrupted
        assert await sh(queue.cancel(ids[1]))
        assert await until(lambda: interrupted == [["a", "b"]], seconds=20)
        for _ in range(1000):
            if sum(await sh(queue.size())) == 0:
                break
            await asyncio.sleep(0.02)
        assert await sh(queue.size()) == (0, 0, 0, 0)
    finally:
        worker.stop()
        await task
