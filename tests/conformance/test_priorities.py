"""Priorities: several queues by weight or strictly, and levels within one; both shells, plain and coroutine."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections import Counter
from typing import Any

import pytest
import redis as redis_py

import reliq
import reliq.aio
from reliq.core.message import Message
from reliq.errors import ConfigError
from reliq.ranking import Lines
from tests.conformance.shell import Shell, until
from tests.conformance.test_worker import KINDS, at_work, make, run


def in_hand(queue: Any) -> int:
    """How many messages are claimed, asked beside whichever shell the queue is of."""
    with reliq.Queue(queue.name, queue.url, prefix=queue.options.keys.prefix) as beside:
        return beside.size().doing


def noting(seen: list[Any], seconds: float = 0.0) -> Any:
    """What notes a body, and takes so long for it."""

    def note(body: Any, lease: Any) -> None:
        seen.append(body)
        if seconds:
            time.sleep(seconds)

    return note


@KINDS
@pytest.mark.parametrize("prefetch", [0, 1000])
async def test_strictly_in_the_order_given(sh: Shell, kind: str, prefetch: int) -> None:
    """Nothing of a later queue before the earlier ones are empty; within a queue as it was put."""
    queues, seen = [sh.queue(f"q{n}") for n in range(3)], list[Any]()
    for n, queue in enumerate(queues):
        await sh(queue.put_many([(n, i) for i in range(200)]))
    handlers = [make(queue, kind, noting(seen)) for queue in queues]
    await run(sh, *handlers, concurrency=1, prefetch=prefetch, strict=True)
    assert [tuple(each) for each in seen] == [(n, i) for n in range(3) for i in range(200)]


@KINDS
@pytest.mark.parametrize("pace", ["quick", "slow"])
@pytest.mark.parametrize("weights", [{"a": 6, "b": 1}, {"a": 1, "b": 3}])
async def test_shares_by_weight(sh: Shell, kind: str, pace: str, weights: dict[str, int]) -> None:
    """Over 2,000 hand-overs while both have work, each gets its share within a tenth; each in order."""
    a, b, seen = sh.queue("a"), sh.queue("b"), list[Any]()
    for queue in (a, b):
        await sh(queue.put_many([(queue.name, i) for i in range(2200)]))
    if pace == "quick" or kind == "plain":
        handlers = [make(queue, kind, noting(seen, 0.002 * (pace == "slow"))) for queue in (a, b)]
    else:

        async def slow(body: Any) -> None:
            seen.append(body)
            await asyncio.sleep(0.002)

        handlers = [queue.ack(slow) for queue in (a, b)]
    async with at_work(sh, sh.Worker(*handlers, weights=weights, concurrency=4)):
        assert await until(lambda: len(seen) >= 2000, seconds=60)
    first = seen[:2000]
    share = Counter(name for name, _ in first)
    for name, weight in weights.items():
        assert share[name] == pytest.approx(2000 * weight / sum(weights.values()), rel=0.1), share
    if kind == "coroutine":
        for name in weights:
            numbers = [i for queue, i in first if queue == name]
            assert numbers == sorted(numbers)


@pytest.fixture
def lined_up(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a message with the body "now" waits in the process for a handler."""
    found, extend = threading.Event(), Lines.extend

    def seeing(self: Lines, messages: list[Message]) -> None:
        extend(self, messages)
        if any(message.body == "now" for message in messages):
            found.set()

    monkeypatch.setattr(Lines, "extend", seeing)
    return found


@KINDS
@pytest.mark.parametrize("how", ["strict", "weights", "levels"])
async def test_a_higher_one_is_next_however_many_lower_ones_are_claimed_ahead(
    sh: Shell, kind: str, how: str, lined_up: threading.Event
) -> None:
    """While more than a hundred wait in the process, in the hands of whose handler another one is."""
    low = sh.queue("q", levels=how == "levels")
    high = low.level("high") if how == "levels" else sh.queue("urgent")
    await sh(low.put_many(range(5000)))
    seen, ahead = list[Any](), list[int]()

    def arrives(body: Any) -> bool:
        """Put it, once more than a hundred others are claimed."""
        seen.append(body)
        if not ahead and body % 500 == 499 and (doing := in_hand(low)) > 101:
            ahead.append(doing)
            with reliq.Queue(high.name, sh.url, prefix=sh.prefix) as queue:
                queue.put("now")
            return True
        return False

    def handle(body: Any) -> None:
        if arrives(body):
            lined_up.wait(5)

    async def handle_async(body: Any) -> None:
        if arrives(body):
            await until(lined_up.is_set)

    function = handle if kind == "plain" else handle_async
    handlers = [queue.ack(function) for queue in ([low] if how == "levels" else [high, low])]
    asked: dict[str, dict[str, Any]] = {"strict": {"strict": True}, "weights": {"weights": {"q": 2}}}
    async with at_work(sh, sh.Worker(*handlers, concurrency=1, **asked.get(how, {}))):
        assert await until(lambda: "now" in seen, seconds=30)
    assert ahead[0] > 101
    assert seen[seen.index("now") - 1] % 500 == 499, "another one came before it"
    seen.remove("now")
    assert seen + await sh.drain(low) == list(range(5000)), "and what waited went on in order"


@KINDS
async def test_levels_share_a_worker(sh: Shell, kind: str) -> None:
    """High 6, normal 3, low 1, each in order; and what is put without a priority is normal."""
    queue, seen = sh.queue("emails", levels=True), list[Any]()
    for level in ("low", None, "high"):
        await sh(queue.put_many([(level, i) for i in range(700)], priority=level))
    async with at_work(sh, sh.Worker(make(queue, kind, noting(seen)), concurrency=1)):
        assert await until(lambda: len(seen) == 2100, seconds=60)
    share = Counter(each[0] for each in seen[:1000])
    assert share["high"] == pytest.approx(600, rel=0.1)
    assert share[None] == pytest.approx(300, rel=0.1)
    assert share["low"] == pytest.approx(100, rel=0.1)
    for level in ("low", None, "high"):
        assert [i for name, i in seen if name == level] == list(range(700))


async def test_a_level_is_a_queue_beside(sh: Shell, redis: redis_py.Redis) -> None:
    """It has keys of its own, is in the index, and a message of it is found from the queue."""
    queue = sh.queue("emails", levels={"now": 5, "normal": 1}, lease=7, key="mails")
    now = queue.level("now")
    assert queue.level("normal") is queue
    assert queue.level("now") is now
    assert (now.name, now.options.keys.ready, now.options.lease) == ("emails.now", "mails.now", 7)
    id = await sh(queue.put({"to": "ada"}, priority="now", id="welcome-7"))
    assert await sh(queue.put({"to": "ada"}, priority="now", id="welcome-7")) == id
    assert (await sh(now.size())).ready == 1
    assert (await sh(queue.size())).ready == 0
    assert redis.llen("mails.now") == 1
    assert set(redis.hkeys(f"{sh.prefix}:queues")) == {b"emails.now"}
    found = await sh(queue.explain(id))
    assert (found.queue, found.state) == ("emails.now", "ready")
    assert await sh.drain(now) == [{"to": "ada"}]


@pytest.mark.parametrize("many", [False, True])
async def test_a_priority_that_is_none(sh: Shell, many: bool) -> None:
    """Nothing is put anywhere."""
    plain, leveled = sh.queue("a"), sh.queue("b", levels=True)
    for queue, said in ((plain, "it has no levels"), (leveled, "its levels are high, normal, low")):
        with pytest.raises(ConfigError, match=f"priority 'urgent' is not known; {said}"):
            await sh(queue.put_many([1], priority="urgent") if many else queue.put(1, priority="urgent"))
    assert (await sh(plain.size())).ready == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": {"emails": 0}}, "queue 'emails': a weight is a whole number, 1 to 1,000, not 0"),
        ({"weights": {"emails": -1}}, "not -1"),
        ({"weights": {"emails": 1001}}, "not 1001"),
        ({"weights": {"emails": 1.5}}, "not 1.5"),
        ({"weights": {"emials": 2}}, "'emials': …}.: there is no handler for this queue; .* emails, reports"),
        ({"weights": [6, 1]}, "by the names of queues, as in {'emails': 6}"),
        ({"weights": {"emails": 2}, "strict": True}, "give one of them"),
        ({"strict": 1}, "True or False"),
    ],
)
async def test_wrong_priorities_of_a_worker(sh: Shell, options: dict[str, Any], said: str) -> None:
    """Said when it is made."""
    handlers = [sh.queue(name).ack(print) for name in ("emails", "reports")]
    with pytest.raises(ConfigError, match=said):
        sh.Worker(*handlers, **options)


async def test_a_level_is_handled_once(sh: Shell) -> None:
    """Not by the handler of its queue and one more."""
    queue = sh.queue("emails", levels=True)
    with pytest.raises(ConfigError, match=r"several handlers for queue emails\.high"):
        sh.Worker(queue.ack(print), queue.level("high").ack(print))


@KINDS
async def test_a_later_queue_gets_what_an_earlier_one_leaves(sh: Shell, kind: str) -> None:
    """Slots that the first does not fill are not idle, and none of the later ones starves while it is empty."""
    first, second, seen = sh.queue("first"), sh.queue("second"), list[Any]()
    await sh(second.put_many(range(50)))
    handlers = [make(queue, kind, noting(seen)) for queue in (first, second)]
    async with at_work(sh, sh.Worker(*handlers, strict=True)):
        assert await until(lambda: len(seen) == 50)
        await sh(first.put("a"))
        assert await until(lambda: "a" in seen)
        await sh(second.put("b", delay=0.2))
        assert await until(lambda: "b" in seen)


async def test_the_slot_that_an_earlier_queue_leaves_is_filled_at_once(sh: Shell) -> None:
    """Its last message is done, and nobody rings: the trip that finds it empty is followed by that of the next."""
    queues, seen = [sh.queue(f"q{n}") for n in range(3)], list[tuple[Any, float]]()
    for n in (0, 2):
        await sh(queues[n].put(n))

    def handle(body: Any, lease: Any) -> None:
        begun = time.monotonic()
        time.sleep(0.1)
        seen.append((body, begun))

    handlers = [make(queue, "plain", handle) for queue in queues]
    async with at_work(sh, sh.Worker(*handlers, concurrency=1, prefetch=0, strict=True)):
        assert await until(lambda: len(seen) == 2)
    assert [body for body, _ in seen] == [0, 2]
    assert seen[1][1] - seen[0][1] < 0.1 + 0.4


async def test_a_later_queue_does_not_wait_for_one_that_is_paused(sh: Shell) -> None:
    """Strictly before it, and never empty, but nothing of it can be claimed."""
    first, second, seen = sh.queue("first"), sh.queue("second"), list[Any]()
    await sh(first.put_many(range(50)))
    await sh(first.pause())
    await sh(second.put_many(["a", "b"]))
    handlers = [make(queue, "plain", noting(seen)) for queue in (first, second)]
    async with at_work(sh, sh.Worker(*handlers, strict=True)):
        assert await until(lambda: seen == ["a", "b"])
        await sh(first.resume())
        assert await until(lambda: seen == ["a", "b", *range(50)])


@pytest.mark.parametrize("why", ["delay", "limit"])
async def test_what_is_due_later_comes_though_others_have_work(sh: Shell, why: str) -> None:
    """A message of a queue of little weight, of which a bell tells or none does, while another is never empty."""
    busy, other, seen = sh.queue("busy"), sh.queue("other"), list[Any]()
    await sh(busy.put_many(["busy"] * 3000))
    if why == "limit":
        await sh(other.limit(rate=2, burst=1))
        await sh(other.put("first"))
    await sh(other.put("due", delay=0.3 if why == "delay" else None))
    note = noting(seen, 0.002)
    handlers = [make(queue, "plain", note) for queue in (busy, other)]
    async with at_work(sh, sh.Worker(*handlers, concurrency=1, prefetch=0, weights={"busy": 100})):
        assert await until(lambda: "due" in seen, seconds=2.5)
        assert (await sh(busy.size())).ready > 0


async def test_what_is_overtaken_for_long_goes_back(sh: Shell) -> None:
    """Claimed ahead, and then others come strictly first without an end: it may run elsewhere."""
    high, low = sh.queue("high"), sh.queue("low")
    seen, go = list[Any](), threading.Event()
    await sh(low.put_many(range(3000)))

    def handle(body: Any) -> None:
        seen.append(body)
        if body == 2000:
            go.wait(10)
        elif body == "high":
            time.sleep(0.002)

    async with at_work(sh, sh.Worker(high.ack(handle), low.ack(handle), concurrency=1, strict=True)):
        assert await until(lambda: 2000 in seen)
        ahead = (await sh(low.size())).doing
        assert ahead > 50
        await sh(high.put_many(["high"] * 5000))
        assert await until(lambda: in_hand(high) > 0)
        go.set()
        assert await until(lambda: in_hand(low) == 0, seconds=10)
        assert await until(lambda: "high" in seen)
        assert set(seen[seen.index("high") :]) == {"high"}
    assert await sh.drain(low) == list(range(seen.index("high"), 3000))


async def test_sixteen_idle_queues(own_sh: Shell) -> None:
    """Each is woken at once, also the last in order; and none sends more than a command a second while idle."""
    queues, seen = [own_sh.queue(f"q{n}") for n in range(16)], list[Any]()
    handlers = [make(queue, "plain", noting(seen)) for queue in queues]
    async with at_work(own_sh, own_sh.Worker(*handlers, weights={f"q{n}": n + 1 for n in range(16)})):
        for n, queue in enumerate(queues):  # all are there
            await own_sh(queue.put(n))
        assert await until(lambda: len(seen) == 16)
        took = []
        for queue in queues:
            seen.clear()
            begun = time.perf_counter()
            await own_sh(queue.put("now"))
            assert await until(lambda: seen)
            took.append(time.perf_counter() - begun)
        assert statistics.median(took) < 0.1
        assert max(took) < 1
        await asyncio.sleep(1.5)
        before = sent(own_sh.url)
        await asyncio.sleep(6)
        assert 0 < sent(own_sh.url) - before <= 16 * 6


def sent(url: str) -> int:
    """How many scripts and BLMOVEs clients have sent so far. (What scripts call is counted by other names.)"""
    with redis_py.Redis.from_url(url) as redis:
        stats = redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "blmove"))
