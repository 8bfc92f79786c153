"""explain in a deep queue: calls are counted, not timed. ``DEEP=10000000`` tries ten million."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core.explain import Explanation, explain_g
from reliq.core.explain.search import Progress, Search
from reliq.core.reasons import Reason
from tests.servers import ExternalServer, RedisServer

DEEP = int(os.environ.get("DEEP", "200000"))
START = 1_700_000_000_000
#: Where in the queue messages are looked for, as shares of it.
PLACES = (0.0, 0.000_7, 0.3, 0.5, 0.777, 0.999_5, 1.0)


def element(n: int, **counters: int) -> bytes:
    """The n-th put: three in each ms, as busy producers do, each with a random-looking rest of its id."""
    return env.pack(id_of(n), b"%d" % n, {"c": "json"}, **counters)


def id_of(n: int) -> bytes:
    return env.uuid7(START + n // 3, (n * 2_654_435_761 % 2**64).to_bytes(10, "big"))


class Deep:
    """A queue of so many messages in order; every test takes from it and puts into it a little."""

    def __init__(self, server: RedisServer | ExternalServer, prefix: str) -> None:
        self.queue = reliq.Queue("deep", server.url, prefix=prefix)
        self.keys = self.queue.options.keys
        self.redis: Any = server.client()
        with self.redis.pipeline(transaction=False) as pipeline:
            for start in range(0, DEEP, 10_000):
                pipeline.lpush(self.keys.ready, *(element(n) for n in range(start, min(DEEP, start + 10_000))))
                pipeline.execute()
        self.redis.hset(self.keys.queues, "deep", "{}")

    def explain(self, id: bytes, **options: Any) -> tuple[Explanation, Counter[str]]:
        """The explanation, and how many calls of each kind it took."""
        flow, calls = explain_g(self.keys, id.hex(), **options), Counter[str]()
        started = time.perf_counter()
        try:
            step = next(flow)
            while True:
                calls[step.name] += 1
                step = flow.send(self.queue.links.insist(step))
        except StopIteration as stop:
            print(f"{(time.perf_counter() - started) * 1000:.1f} ms, {dict(calls)}")
            return stop.value, calls

    def close(self) -> None:
        self.redis.delete(self.keys.ready, self.keys.later, self.keys.events, self.keys.queues)
        self.redis.close()
        self.queue.close()


@pytest.fixture(scope="module")
def deep(server: RedisServer | ExternalServer) -> Iterator[Deep]:
    made = Deep(server, f"deep{os.getpid()}")
    yield made
    made.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", PLACES)
def test_a_message_in_its_place(deep: Deep, share: float) -> None:
    """Its position is exact, and found within a few probes, wherever it stands."""
    n = min(DEEP - 1, int(share * DEEP))
    found, calls = deep.explain(id_of(n))
    assert (found.state, found.position, found.length) == ("ready", n + 1, DEEP)
    assert calls["probe"] <= 12
    assert calls["sift"] <= 4
    assert calls.total() <= 25


@pytest.mark.parametrize("deep_look", [True, False])
def test_a_few_back_at_the_head(deep: Deep, deep_look: bool) -> None:
    """Messages that went back stand at the head, older than they should be, or younger: they are found there."""
    back = element(DEEP // 2, returns=1)
    deep.redis.lrem(deep.keys.ready, 1, element(DEEP // 2))
    deep.redis.rpush(deep.keys.ready, back)
    try:
        found, calls = deep.explain(id_of(DEEP // 2), deep=deep_look)
    finally:
        deep.redis.rpop(deep.keys.ready)
        deep.redis.linsert(deep.keys.ready, "BEFORE", element(DEEP // 2 - 1), element(DEEP // 2))
    assert (found.state, found.position, found.fence) == ("ready", 1, 2)
    assert calls.total() <= 6


def test_a_retried_one_stands_where_it_became_ready(deep: Deep) -> None:
    """It is as old as its put, and stands among those of the time when its pause was over: the ledger knows."""
    at = DEEP * 3 // 4
    tried = env.pack(env.uuid7(START + 7, b"retried..."), b"1", {"c": "json"}, returns=1, failed=1)
    deep.redis.linsert(deep.keys.ready, "BEFORE", element(at), tried)
    due, delay = START + at // 3, 60_000
    note = {"event": "retry", "id": env.unpack(tried).id.hex(), "consumer": "c", "detail": delay}
    deep.redis.xadd(deep.keys.events, note, id=f"{due - delay}-0")
    try:
        found, calls = deep.explain(env.unpack(tried).id)
    finally:
        deep.redis.lrem(deep.keys.ready, 1, tried)
        deep.redis.delete(deep.keys.events)
    assert (found.state, found.position) == ("ready", at + 2)
    assert [each.event for each in found.timeline] == ["put", "retry"]
    assert calls.total() <= 25


def test_noise_does_not_mislead(deep: Deep) -> None:
    """Some old and some future ids among the others (retries, clocks that are wrong) change nothing."""
    strange = [
        env.pack(env.uuid7(START + (n % 2) * 10**9, b"%010d" % n), b"1", {"c": "json"}, returns=1)
        for n in range(100)
    ]
    places = [DEEP * (2 * n + 1) // 201 for n in range(100)]
    with deep.redis.pipeline(transaction=False) as pipeline:
        for place, each in zip(places, strange, strict=True):
            pipeline.linsert(deep.keys.ready, "BEFORE", element(place), each)
        pipeline.execute()
    try:
        found, calls = deep.explain(id_of(DEEP // 2))
    finally:
        with deep.redis.pipeline(transaction=False) as pipeline:
            for each in strange:
                pipeline.lrem(deep.keys.ready, 1, each)
            pipeline.execute()
    assert found.state == "ready"
    assert found.position == DEEP // 2 + 1 + sum(place < DEEP // 2 for place in places)
    assert calls.total() <= 40


@pytest.mark.timeout(600)
def test_out_of_order_is_found_by_reading(deep: Deep) -> None:
    """An id that says nothing of its place (a clock that was years off) takes a full read in bounded steps."""
    lost = env.pack(env.uuid7(START + 10**10, b"lost......"), b"1", {"c": "json"})
    deep.redis.linsert(deep.keys.ready, "BEFORE", element(DEEP // 3), lost)
    told: list[Progress] = []
    try:
        quick, _ = deep.explain(env.unpack(lost).id, deep=False)
        found, calls = deep.explain(env.unpack(lost).id)
        search = Search(deep.keys, env.unpack(lost).id, told.append)
        deep.queue.links.flow(search.thorough_g())
    finally:
        deep.redis.lrem(deep.keys.ready, -1, lost)
    assert quick.reason is Reason.UNSEARCHED
    assert (found.state, found.position) == ("ready", DEEP // 3 + 2)
    least = DEEP * 2 // 3 // 1_000
    assert least <= calls["sift"] <= least * 1.1 + 40
    seen = [each.looked for each in told if each.place == "ready"]
    assert seen == sorted(seen)
    assert max(b - a for a, b in pairwise(seen)) <= 1_000
    assert {each.of for each in told if each.place == "ready"} == {DEEP + 1}


@pytest.mark.timeout(600)
def test_nowhere_is_said_after_everything_was_read(deep: Deep) -> None:
    """What was acked long ago is nowhere: all was read, in steps of a thousand."""
    gone, calls = deep.explain(env.uuid7(START - 5, b"gone......"))
    assert gone.reason is Reason.DONE_OR_NEVER_PUT
    assert DEEP // 1_000 <= calls["sift"] <= DEEP // 1_000 + 60


def test_deep_in_later(deep: Deep) -> None:
    """One of many delayed messages is found by cursor; a retried one at once: the ledger knows when it is due."""
    now = int(deep.redis.time()[0]) * 1000
    later = {env.pack(env.uuid7(now, b"%010d" % n), b"1"): now + 10**6 + n * 100 for n in range(20_000)}
    deep.redis.zadd(deep.keys.later, later)
    retried, due = list(later.items())[12_345]
    found, calls = deep.explain(env.unpack(retried).id)
    assert (found.state, found.reason, found.due_at) == ("later", Reason.DUE_LATER, due)
    assert calls["sift_set"] <= 45
    note = {"event": "retry", "id": env.unpack(retried).id.hex(), "consumer": "c", "detail": 60_000}
    deep.redis.xadd(deep.keys.events, note, id=f"{due - 60_000}-0")
    found, calls = deep.explain(env.unpack(retried).id)
    deep.redis.delete(deep.keys.later, deep.keys.events)
    assert found.state == "later"
    assert (calls["sift_set"], calls["sift"], calls["probe"]) == (1, 0, 0)


def test_the_whole_ledger_is_read(deep: Deep) -> None:
    """Ten thousand entries of others, and ours among them, in steps of a thousand."""
    id = id_of(DEEP // 2)
    with deep.redis.pipeline(transaction=False) as pipeline:
        for n in range(10_000):
            mine = n % 4_000 == 17
            note = {"event": "late", "id": id.hex() if mine else "00" * 16, "consumer": "c", "detail": "ack"}
            pipeline.xadd(deep.keys.events, note, id=f"{START + n}-0")
        pipeline.execute()
    found, calls = deep.explain(id)
    deep.redis.delete(deep.keys.events)
    assert [each.event for each in found.timeline] == ["put", "late", "late", "late"]
    assert 10 <= calls["recall"] <= 11


def test_no_call_holds_redis_for_long(deep: Deep, redis: redis_py.Redis) -> None:
    """The slow log of Redis, over all that was done here: a call of ours takes some ms at most; ten times of what
    is promised are allowed, as the machine is shared."""
    slow: Any = deep.redis
    slow.config_set("slowlog-log-slower-than", 50_000)
    slow.slowlog_reset()
    for share in PLACES:
        deep.explain(id_of(min(DEEP - 1, int(share * DEEP))))
    deep.explain(env.uuid7(START - 5, b"gone......"))
    entries = [entry for entry in slow.slowlog_get(100) if entry["command"].startswith(b"EVALSHA")]
    slow.config_set("slowlog-log-slower-than", 10_000)
    assert [(entry["duration"], entry["command"][:60]) for entry in entries] == []
