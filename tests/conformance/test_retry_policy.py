"""Retry policies in full: of the queue, the handler and the put; by error and age; hooks; losses apart."""

from __future__ import annotations

from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import scripts
from tests.conformance.shell import Shell, dead_letters, expire
from tests.faults.proxy import FaultProxy, drop_reply


class Flaky(Exception):
    """Worth another attempt."""


async def fail_once(sh: Shell, q: Any, error: BaseException, **options: Any) -> None:
    """Put one, and fail it."""
    await sh(q.put("x", **options))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        async with sh.open(lease):
            raise error


@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        (reliq.Retry(give_up_on=ValueError), "GIVEN_UP"),
        (reliq.Retry(retry_on=Flaky), "GIVEN_UP"),
        (reliq.Retry(attempts=1), "ATTEMPTS"),
        (reliq.Retry(wait=60, max_age=30), "TOO_OLD"),
    ],
)
async def test_what_is_given_up_says_why(
    sh: Shell, redis: redis_py.Redis, policy: reliq.Retry, cause: str
) -> None:
    """At once, with the traceback, under a cause that reliq errors explains."""
    q = sh.queue(retry=policy)
    await fail_once(sh, q, ValueError("no such address"))
    [(note, _)] = dead_letters(redis, q)
    assert (note["cause"], note["error"]) == (cause, "ValueError: no such address")
    assert "Traceback" in note["traceback"]
    explained = await sh(q.explain(note["id"]))
    assert explained.reason == f"DEAD_{cause}"


async def test_the_policy_of_a_put_goes_with_its_message(sh: Shell, redis: redis_py.Redis) -> None:
    """How often and when; through the retries themselves, beside one that follows the queue's."""
    q = sh.queue(retry=reliq.Retry(attempts=1))
    ids = [await sh(q.put(0)), await sh(q.put(1, retry=reliq.Retry(attempts=3, wait=[0, 0.01])))]
    ids += await sh(q.put_many([2, 3], retry=reliq.Retry(attempts=2, wait=0)))
    seen = []
    async with sh.open(q.consumer()) as c:
        for _ in range(8):
            (lease,) = await sh(c.claim(timeout=5))
            async with sh.open(lease):
                seen.append((lease.body, lease.attempt))
                raise Flaky
    assert sorted(seen) == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert sorted(note["id"] for note, _ in dead_letters(redis, q)) == sorted(ids)


@pytest.mark.parametrize("kind", ["raw", "large", "id", "traced"])
async def test_whatever_else_a_message_is(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """A policy of its own is kept beside a large body, an id of one's own, and a trace; raw ones have none."""
    q = sh.queue(retry=reliq.Retry(attempts=1), trace=True if kind == "traced" else None, codec="json")
    policy = reliq.Retry(attempts=2, wait=0)
    if kind == "raw":
        redis.lpush(q.options.keys.ready, b'"x"')
    else:
        body = "x" * (100_000 if kind == "large" else 1)
        await sh(q.put(body, id="mine" if kind == "id" else None, retry=policy))
    attempts = []
    async with sh.open(q.consumer()) as c:
        while leases := await sh(c.claim(timeout=0.5)):
            async with sh.open(leases[0]):
                attempts.append(leases[0].attempt)
                raise Flaky
    assert attempts == ([1] if kind == "raw" else [1, 2])


async def test_a_reaper_leaves_it_the_policy(sh: Shell, redis: redis_py.Redis) -> None:
    """Its consumer dies with it: that is a loss and no attempt, and the policy of the put goes on."""
    q = sh.queue(retry=reliq.Retry(attempts=1))
    await sh(q.put("x", retry=reliq.Retry(attempts=2, wait=0)))
    found = []
    async with sh.open(q.consumer()) as dead:
        held = await sh(dead.claim(timeout=5))
        expire(redis, q, dead)
        assert (await sh(sh.Reaper(q).run_once())).returned == len(held)
        async with sh.open(q.consumer()) as c:
            for _ in range(2):
                (lease,) = await sh(c.claim(timeout=20))
                async with sh.open(lease):
                    found.append((lease.attempt, lease.deliveries))
                    raise Flaky
    assert found == [(1, 2), (2, 3)]
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["ATTEMPTS"]


async def test_hooks_are_told(sh: Shell, redis: redis_py.Redis) -> None:
    """Of each retry and of the end, with what there is to know; what they raise changes nothing."""
    told: list[tuple[str, reliq.Failure]] = []

    def on_retry(failure: reliq.Failure) -> None:
        told.append(("retry", failure))
        raise RuntimeError("the pager is down")

    policy = reliq.Retry(
        attempts=2, wait=0.01, on_retry=on_retry, on_dead=lambda failure: told.append(("dead", failure))
    )
    q = sh.queue(retry=policy)
    mid = await sh(q.put({"n": 1}))
    async with sh.open(q.consumer()) as c:
        for _ in range(2):
            (lease,) = await sh(c.claim(timeout=5))
            async with sh.open(lease):
                raise Flaky("no")
    assert [
        (what, f.queue, f.id, f.body, f.attempt, f.deliveries, f.losses, f.delay, f.cause) for what, f in told
    ] == [
        ("retry", q.name, mid, {"n": 1}, 1, 1, 0, 0.01, ""),
        ("dead", q.name, mid, {"n": 1}, 2, 2, 0, None, "ATTEMPTS"),
    ]
    assert all(isinstance(f.error, Flaky) for _, f in told)
    assert len(dead_letters(redis, q)) == 1


@pytest.mark.parametrize("how", ["release", "return", "bury", "undecodable"])
async def test_hooks_are_told_of_failures_alone(sh: Shell, redis: redis_py.Redis, how: str) -> None:
    """A release is none; a burial by the handler is."""
    told: list[str] = []
    hook = lambda failure: told.append(failure.cause)  # noqa: E731
    q = sh.queue(retry=reliq.Retry(on_retry=hook, on_dead=hook))
    await sh(q.put("x"))
    errors = {
        "release": reliq.Release(),
        "bury": reliq.Bury("no"),
        "undecodable": reliq.errors.DecodeError("ODD", "x"),
    }
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        async with sh.open(lease):
            if how in errors:
                raise errors[how]
    assert told == {"bury": ["BURIED"], "undecodable": ["ODD"]}.get(how, [])


async def test_a_worker_follows_the_handler_and_the_message(sh: Shell, redis: redis_py.Redis) -> None:
    """The handler's policy instead of the queue's; of one message, its own instead of both. Lost replies change
    nothing of that."""
    port = int(redis.connection_pool.connection_kwargs["port"])
    with FaultProxy("127.0.0.1", port) as proxy:
        q = sh.queue(url=proxy.url, retry=reliq.Retry(attempts=9, wait=0))
        seen: list[tuple[int, int]] = []
        dead: list[int] = []

        def handle(body: int, lease: reliq.Lease) -> None:
            seen.append((body, lease.attempt))
            raise Flaky

        policy = reliq.Retry(attempts=2, wait=0, on_dead=lambda failure: dead.append(failure.body))
        handler = q.ack(handle, retry=policy)
        await sh(q.put(1))
        await sh(q.put(2, retry=reliq.Retry(attempts=3, wait=0)))
        for _ in range(3):
            proxy.on(script=scripts.trip.sha, action=drop_reply())
        await sh.start(sh.Worker(handler, until_empty=True).run)
    assert sorted(set(seen)) == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]
    assert len(seen) == 5
    assert sorted(dead) == [1, 2]


async def test_who_asks_for_another_attempt_gets_it(sh: Shell, redis: redis_py.Redis) -> None:
    """lease.retry() says itself that it is worth one: what the policy says of errors is not asked; its attempts
    are."""
    policies = reliq.Retry(attempts=2, wait=0, retry_on=Flaky), reliq.Retry(2, 0, give_up_on=Exception)
    for buried, policy in enumerate(policies, 1):
        q = sh.queue(retry=policy)
        await sh(q.put("x"))
        async with sh.open(q.consumer()) as c:
            for attempt in (1, 2):
                (lease,) = await sh(c.claim(timeout=5))
                assert lease.attempt == attempt
                await sh(lease.retry())
        assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["ATTEMPTS"] * buried


async def test_what_cannot_be_put(sh: Shell) -> None:
    """A policy that is none, or holds code: nothing is sent."""
    q = sh.queue()
    for retry in (3, {"attempts": 3}, reliq.Retry(retry_on=ValueError), reliq.Retry(wait=lambda state: 1)):
        with pytest.raises(reliq.errors.ConfigError, match=r"put\(retry="):
            await sh(q.put(1, retry=retry))
        with pytest.raises(reliq.errors.ConfigError, match=r"put\(retry="):
            await sh(q.put_many([1], retry=retry))
    assert (await sh(q.size())).ready == 0
