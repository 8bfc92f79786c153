"""Code of the user's around puts and handlers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.errors import ConfigError, Refused
from reliq.middleware import Delivery, Put
from tests.conformance.shell import Shell, dead_letters


class Notes:
    """Notes what it sees, under its name, and stands around both kinds of handlers."""

    def __init__(self, name: str, seen: list[Any]) -> None:
        self.name, self.seen = name, seen

    def before_put(self, put: Put) -> None:
        self.seen.append((self.name, "before", put))

    def after_put(self, put: Put, receipts: Sequence[str]) -> None:
        self.seen.append((self.name, "after", list(receipts)))

    def handle(self, delivery: Delivery, call_next: Callable[[], Any]) -> Any:
        self.seen.append((self.name, "in", delivery))
        try:
            return call_next()
        finally:
            self.seen.append((self.name, "out", delivery.id))

    async def ahandle(self, delivery: Delivery, call_next: Callable[[], Awaitable[Any]]) -> Any:
        self.seen.append((self.name, "in", delivery))
        try:
            return await call_next()
        finally:
            self.seen.append((self.name, "out", delivery.id))


async def run(sh: Shell, *handlers: Any, **options: Any) -> None:
    await sh.start(sh.Worker(*handlers, signals=False, until_empty=True, **options).run)


async def test_around_a_put(sh: Shell) -> None:
    """The outermost sees it first and the receipt last; of many bodies, all at once."""
    seen: list[Any] = []
    q = sh.queue(middleware=[Notes("a", seen), Notes("b", seen)])
    receipt = await sh(q.put(1, delay=0, type="t"))
    put = Put("q", (1,), {"delay": 0, "type": "t"})
    assert seen == [
        ("a", "before", put),
        ("b", "before", put),
        ("b", "after", [receipt]),
        ("a", "after", [receipt]),
    ]
    assert put.body == 1
    seen.clear()
    receipts = await sh(q.put_many(iter([2, 3]), type="t"))
    assert seen[0] == ("a", "before", Put("q", (2, 3), {"type": "t"}))
    assert seen[-1] == ("a", "after", receipts)
    assert await sh.drain(q) == [1, 2, 3]


@pytest.mark.parametrize("many", [False, True])
async def test_it_may_change_a_put(sh: Shell, many: bool) -> None:
    """Its bodies and its options; the one further in sees that, and so does what is put."""
    seen: list[Any] = []

    class Stamp:
        def before_put(self, put: Put) -> Put:
            bodies = [{"stamp": 7, **body} for body in put.bodies]
            return dataclasses.replace(put, bodies=bodies, options={**put.options, "type": "stamped"})

    q = sh.queue(middleware=[Stamp(), Notes("in", seen)])
    await sh(q.put_many([{"a": 1}]) if many else q.put({"a": 1}))
    assert seen[0][2] == Put("q", [{"stamp": 7, "a": 1}], {"type": "stamped"})
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert (lease.body, lease.type) == ({"stamp": 7, "a": 1}, "stamped")
        await sh(lease.ack())


async def test_no_bodies_are_no_put(sh: Shell) -> None:
    """No hook is asked about a put_many of nothing, which has no first body."""

    class Looks:
        def before_put(self, put: Put) -> None:
            assert put.body is not None

    q = sh.queue(middleware=[Looks()])
    assert await sh(q.put_many([])) == []
    assert await sh(q.put_many(iter([]), delay=1)) == []
    assert len(await sh(q.put_many(iter([1, 2])))) == 2


async def test_it_may_refuse_a_put(sh: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """What it raises before, the caller gets, and nothing is put; what it raises behind is only told."""

    class No:
        def before_put(self, put: Put) -> None:
            if put.body == "no":
                raise Refused("not here")

        def after_put(self, put: Put, receipts: Sequence[str]) -> None:
            raise OSError("too late")

    q = sh.queue(middleware=[No()])
    with pytest.raises(Refused, match="not here"):
        await sh(q.put("no"))
    with pytest.raises(Refused, match="not here"):
        await sh(q.put_many(["no", "yes"]))
    assert (await sh(q.size())).ready == 0
    with caplog.at_level(logging.ERROR):
        await sh(q.put("yes"))
    assert "raised OSError: too late; the put has happened" in caplog.text
    assert (await sh(q.size())).ready == 1


async def test_levels_go_through_it_once(sh: Shell) -> None:
    """A put with a priority, and one into a level; a class of the user's stays what it is."""
    seen: list[Any] = []

    class Own(sh.Queue):  # type: ignore[name-defined,misc]
        def greet(self) -> str:
            return f"I am {self.name}"

    q = Own("q", url=sh.url, prefix=sh.prefix, levels=True, middleware=[Notes("a", seen)])
    await sh(q.put(1, priority="high"))
    await sh(q.level("low").put(2))
    assert [(each[1], getattr(each[2], "queue", "")) for each in seen] == [
        ("before", "q"), ("after", ""), ("before", "q.low"), ("after", ""),
    ]  # fmt: skip
    assert (q.greet(), isinstance(q, Own), repr(q)) == ("I am q", True, "<Queue 'q'>")
    assert (await sh(q.level("high").size())).ready == 1
    await sh.close(q)


@pytest.mark.parametrize("kind", ["plain", "coroutine", "with a lease"])
async def test_around_a_handler(sh: Shell, kind: str) -> None:
    """That of the worker is outside of that of the queue; each sees the delivery, and the outcome."""
    seen: list[Any] = []

    def plain(body: Any) -> None:
        seen.append(("handler", body))

    async def coroutine(body: Any) -> None:
        await asyncio.sleep(0)
        seen.append(("handler", body))

    def leased(lease: reliq.Lease, body: Any) -> None:
        seen.append(("handler", body))

    q = sh.queue(middleware=[Notes("queue", seen)])
    handler = q.ack({"plain": plain, "coroutine": coroutine, "with a lease": leased}[kind], type="t")
    id = await sh(q.put(1, type="t"))
    seen.clear()
    await run(sh, handler, middleware=[Notes("worker", seen)])
    delivery = seen[0][2]
    assert [each[:2] for each in seen] == [
        ("worker", "in"), ("queue", "in"), ("handler", 1), ("queue", "out"), ("worker", "out"),
    ]  # fmt: skip
    assert (delivery.queue, delivery.id, delivery.type, delivery.body) == ("q", id, "t", 1)
    assert delivery.handler.endswith(f"test_around_a_handler.<locals>.{handler.function.__name__}")
    assert (delivery.attempt, delivery.deliveries, delivery.fence, len(delivery.trace_id)) == (1, 1, 1, 32)
    handler(None, 1) if kind == "with a lease" else await sh(handler(1))
    assert len(seen) == 6  # a plain call goes through none


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_around_a_handler_of_batches(sh: Shell, kind: str) -> None:
    """Once for each batch, with all bodies; beside handlers of other types, and with what the lifespan yields."""
    seen: list[Any] = []
    got: list[Any] = []

    def plain(bodies: list[int], leases: Any, *, store: reliq.Dependency[list[Any]]) -> None:
        store.append((bodies, [lease.type for lease in leases]))

    async def coroutine(bodies: list[int], leases: Any, *, store: reliq.Dependency[list[Any]]) -> None:
        store.append((bodies, [lease.type for lease in leases]))

    q = sh.queue(middleware=[Notes("queue", seen)])
    many = q.ack(plain if kind == "plain" else coroutine, type="many", batch=10)
    other = q.ack(lambda body: got.append(body), type="one")
    ids = await sh(q.put_many([1, 2, 3], type="many"))
    await sh(q.put(4, type="one"))
    seen.clear()
    await run(sh, many, other, lifespan=lambda: contextlib.nullcontext({"store": got}))
    assert sorted(got, key=str) == [([1, 2, 3], ["many"] * 3), 4]
    deliveries = [each[2] for each in seen if each[1] == "in"]
    assert sorted((d.type, d.body) for d in deliveries) == [("many", [1, 2, 3]), ("one", 4)]
    assert {d.id for d in deliveries if d.type == "many"} == {ids[0]}
    assert sum(await sh(q.size())) == 0


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_what_it_raises_is_the_handlers_failure(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """By its policy, with its traceback; a verdict that it raises counts; who never calls on passes it over."""
    called: list[Any] = []

    class Guard:
        def check(self, delivery: Delivery) -> bool:
            if delivery.body == "fail":
                raise PermissionError("not this one")
            if delivery.body == "bury":
                raise reliq.Bury("never")
            return bool(delivery.body != "skip")

        def handle(self, delivery: Delivery, call_next: Callable[[], Any]) -> Any:
            return call_next() if self.check(delivery) else None

        async def ahandle(self, delivery: Delivery, call_next: Callable[[], Awaitable[Any]]) -> Any:
            return await call_next() if self.check(delivery) else None

    def plain(body: Any) -> None:
        called.append(body)

    async def coroutine(body: Any) -> None:
        called.append(body)

    q = sh.queue(retry=reliq.Retry(attempts=1))
    for body in ("fail", "bury", "skip", "go"):
        await sh(q.put(body))
    await run(sh, q.ack(plain if kind == "plain" else coroutine), middleware=[Guard()])
    assert called == ["go"]
    assert (await sh(q.size())) == (0, 0, 0, 2)
    notes = {note["cause"]: note for note, _ in dead_letters(redis, q)}
    assert "PermissionError: not this one" in notes["ATTEMPTS"]["error"]
    assert "in check" in notes["ATTEMPTS"]["traceback"]
    assert notes["BURIED"]["error"] == "never"


async def test_coroutine_hooks(sh: Shell) -> None:
    """Around puts in asyncio, where they are awaited, and refused elsewhere; around coroutine handlers in both."""
    seen: list[Any] = []

    class Waits:
        async def before_put(self, put: Put) -> Put:
            await asyncio.sleep(0)
            return dataclasses.replace(put, bodies=["changed"])

        async def after_put(self, put: Put, receipts: Sequence[str]) -> None:
            await asyncio.sleep(0)
            seen.append(receipts)

    class Handles:
        async def handle(self, delivery: Delivery, call_next: Callable[[], Awaitable[Any]]) -> Any:
            seen.append("in")
            return await call_next()

    if sh.name == "sync":
        with pytest.raises(ConfigError, match=r"before_put of .* is a coroutine function, and nothing awaits it"):
            sh.queue(middleware=[Waits()])
    else:
        q = sh.queue(middleware=[Waits()])
        receipt = await q.put(1)
        assert seen == [[receipt]]
        assert await sh.drain(q) == ["changed"]
    seen.clear()
    q = sh.queue("other", middleware=[Handles()])

    async def coroutine(body: Any) -> None:
        seen.append(body)

    await sh(q.put(1))
    await run(sh, q.ack(coroutine))
    assert seen == ["in", 1]
    with pytest.raises(
        ConfigError, match=r"cannot stand around handler .*: it has no plain function handle; add one"
    ):
        sh.Worker(q.ack(seen.append))


async def test_what_is_none(sh: Shell) -> None:
    """Is refused where it is named; one that can stand around no coroutine, where the worker is made."""

    class Plain:
        def handle(self, delivery: Delivery, call_next: Callable[[], Any]) -> Any:
            return call_next()

    async def coroutine(body: Any) -> None:
        pass

    for wrong in ([3], [Plain], ["x"], "x", 3, [object()]):
        with pytest.raises(ConfigError, match=r"Queue 'q'\(middleware="):
            sh.queue(middleware=wrong)
    q = sh.queue()
    with pytest.raises(ConfigError, match=r"Worker\(middleware="):
        sh.Worker(q.ack(print), middleware=[3])
    with pytest.raises(ConfigError, match="it has no coroutine function ahandle"):
        sh.Worker(q.ack(coroutine), middleware=[Plain()])
    sh.Worker(q.ack(print), middleware=[Plain()])

    class Wrong:
        def before_put(self, put: Put) -> Any:
            return put.body

    q = sh.queue(middleware=[Wrong()])
    with pytest.raises(ConfigError, match="returned 1: let it return None, or a Put"):
        await sh(q.put(1))
    assert (await sh(q.size())).ready == 0
