"""Queue.cancel and Queue.reschedule: a waiting message is gone, or due at another time, in both shells."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import waiting
from reliq.core.explain import looks
from reliq.core.reasons import Reason
from reliq.errors import ConfigError, MovedOn
from tests.conformance.shell import Shell, events
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer

IN_AN_HOUR = timedelta(hours=1)


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts["cancel"] = waiting._CANCEL.sha
        running.scripts["reschedule"] = waiting._RESCHEDULE.sha
        yield running


# -- cancel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", ["ready", "later"])
async def test_cancelled_while_it_waits(sh: Shell, waits: str) -> None:
    """It is gone, others stay; explain says by whom and when; to cancel it once more says the same."""
    q = sh.queue()
    ids = await sh(q.put_many([1, 2, 3], delay=60 if waits == "later" else None))
    assert await sh(q.cancel(ids[1], by="ada")) is True
    assert getattr(await sh(q.size()), waits) == 2
    assert await sh(q.cancel(ids[1])) is True
    found = await sh(q.explain(ids[1]))
    assert (found.state, found.reason) == ("cancelled", Reason.CANCELLED)
    assert "(ada) cancelled it" in found.why
    assert found.usual
    assert [each.event for each in found.timeline] == ["id", "cancel"]
    assert found.timeline[-1].told == "cancelled: ada"
    assert found.timeline[-1].consumer.rpartition(":")[2].isdigit()


async def test_what_is_not_here_is_not_cancelled(sh: Shell) -> None:
    """Done, dead, never here: False, and nothing changes; nor does what is in hand get another time."""
    q = sh.queue(retry=reliq.Retry(attempts=1))
    held, done, dead = await sh(q.put_many([1, 2, 3]))
    async with sh.open(q.consumer(prefetch=3)) as c:
        leases = {lease.id: lease for lease in await sh(c.claim(3, timeout=5))}
        await sh(leases[done].ack())
        await sh(leases[dead].bury("no"))
        before = await sh(q.size())
        for id in (held, done, dead, "0" * 32, "order-17"):
            assert id == held or await sh(q.cancel(id)) is False, id
            assert await sh(q.reschedule(id, delay=5)) is False, id
        assert await sh(q.size()) == before
        await sh(leases[held].ack())


async def test_by_an_id_of_the_users_own(sh: Shell, redis: redis_py.Redis) -> None:
    """The text that put was given; when that comes again after its hour, it is another message."""
    q = sh.queue()
    await sh(q.put(1, id="order-17"))
    assert await sh(q.cancel("order-18")) is False
    assert await sh(q.cancel("order-17")) is True
    await sh(q.put(1, id="order-17"))
    assert (await sh(q.size())).ready == 0, "a repeat of the put within the hour does not bring it back"
    redis.delete(q.options.keys.marker(env.named_id("order-17")))
    await sh(q.put(2, id="order-17"))
    assert await sh(q.cancel("order-17")) is True
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_a_failed_one_that_waits_is_not_tried_again(sh: Shell) -> None:
    """Between two attempts it waits like any other."""
    q = sh.queue(retry=reliq.Retry(attempts=5, wait=60))
    id = await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1, timeout=5))
        await sh(lease.retry(delay=60))
    assert await sh(q.cancel(id)) is True
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    assert (await sh(q.explain(id))).state == "cancelled"


async def test_large_bodies_go_too(sh: Shell, redis: redis_py.Redis) -> None:
    """One beside the list, and one that is in the list and longer than what explain reads of it."""
    q, inside = sh.queue(), sh.queue("inside", claim_check=1_000_000)
    for queue in (q, inside):
        id = await sh(queue.put("x" * 200_000))
        assert await sh(queue.reschedule(id, delay=60)) is True
        assert (await sh(queue.size())).later == 1
        assert await sh(queue.cancel(id)) is True
        assert (await sh(queue.size())).later == 0
    assert not list(redis.scan_iter(match=q.options.keys.body(b"") + "*", count=1000))


async def test_it_is_found_deep_in_a_queue(sh: Shell) -> None:
    """Where its id says; consumers get all others, in order."""
    q = sh.queue()
    ids = await sh(q.put_many(range(5000)))
    for n in (0, 2500, 2501, 4999):
        assert await sh(q.cancel(ids[n])) is True
    bodies = await sh.drain(q, prefetch=100)
    assert bodies == [n for n in range(5000) if n not in (0, 2500, 2501, 4999)]


async def test_lost_reply_of_a_cancel(sh: Shell, proxy: FaultProxy) -> None:
    """Redis ran it and the answer vanished: True all the same, and it is told once."""
    q = sh.queue(url=proxy.url)
    id, own = await sh(q.put(1)), await sh(q.put(2, id="own"))
    for each in (id, own):
        rule = proxy.on(script="cancel", action=drop_reply())
        assert await sh(q.cancel(each)) is True
        assert rule.hits == 1
    assert (await sh(q.size())).ready == 0
    assert await sh(q.cancel(id)) is True


async def test_who_it_is_is_a_line(sh: Shell) -> None:
    """A word about who, without line breaks; and an id."""
    q = sh.queue()
    for by in ("a\nb", "x" * 101, None):
        with pytest.raises(ConfigError, match=r"^cancel\(by=.*who it is"):
            await sh(q.cancel("0" * 32, by=by))
        for verb in ("pause", "drain", "resume", "limit", "purge"):
            with pytest.raises(ConfigError, match=rf"^{verb}\(by=.*who it is"):
                await sh(getattr(q, verb)(by=by))
    for id in ("", " ", None):
        with pytest.raises(ConfigError, match="the id of a message"):
            await sh(q.cancel(id))


async def test_one_that_is_never_still_is_an_error(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves on between every look and what is to be done: MovedOn, after a bounded number of looks."""
    q = sh.queue()
    id = await sh(q.put(1))
    asked = []

    def seen(found: looks.Found) -> tuple[Any, ...]:
        asked.append(found)
        return env.pack(b"i" * 16, b"x"), 0, id

    monkeypatch.setattr(waiting, "_seen", seen)
    with pytest.raises(MovedOn, match="Say the same again"):
        await sh(q.cancel(id))
    assert 5 < len(asked) < 100
    assert (await sh(q.size())).ready == 1


async def test_in_the_hands_of_an_exclusive_holder(sh: Shell) -> None:
    """He leaves his batch in its place, and cancel leaves it to him; what is behind it can be cancelled."""
    q = sh.queue()
    ids = await sh(q.put_many([1, 2, 3]))
    async with sh.open(q.exclusive(batch=2)) as holder:
        batch = await sh.next(holder)
        with pytest.raises(reliq.QueueHeld, match="in the batch"):
            await sh(q.cancel(ids[0]))
        assert await sh(q.cancel(ids[2])) is True
        async with sh.open(batch):
            pass
        assert (await sh(q.size())).ready == 0


# -- reschedule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", ["ready", "later"])
async def test_given_another_time(sh: Shell, redis: redis_py.Redis, waits: str) -> None:
    """It is due then, in either place, and earlier as well as later; explain tells it."""
    q = sh.queue()
    id = await sh(q.put(1, delay=30 if waits == "later" else None))
    at = datetime.now(timezone.utc) + IN_AN_HOUR
    assert await sh(q.reschedule(id, at=at)) is True
    found = await sh(q.explain(id))
    assert (found.state, found.reason) == ("later", Reason.DUE_LATER)
    assert found.due_at == round(at.timestamp() * 1000)
    assert found.why.endswith("gave it another time")
    assert [each.event for each in found.timeline] == ["put", "reschedule"]
    assert at.strftime("%Y-%m-%dT%H:%M:%S") in found.timeline[-1].told
    assert await sh(q.reschedule(id, delay=0)) is True
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1, timeout=5))
        assert (lease.body, lease.attempt, lease.deliveries) == (1, 1, 1)
        await sh(lease.ack())
    assert ("reschedule", str(found.due_at)) in events(redis, q)
    assert await sh(q.reschedule(id, delay=5)) is False


async def test_an_idle_consumer_takes_it_when_it_is_due(sh: Shell) -> None:
    """It sleeps until what is due first; when that is another time, it is told: long before its block is over."""
    q = sh.queue(block=30)
    id = await sh(q.put(1, delay=3600))
    async with sh.open(q.consumer()) as c:
        claim = sh.start(c.claim, 1, timeout=20)
        await sh(q.reschedule(id, delay=0.3))
        [lease] = await claim
        await sh(lease.ack())


async def test_lost_reply_of_a_reschedule(sh: Shell, proxy: FaultProxy) -> None:
    """Redis ran it and the answer vanished: True all the same, and there is one message."""
    q = sh.queue(url=proxy.url)
    id = await sh(q.put(1))
    rule = proxy.on(script="reschedule", action=drop_reply())
    assert await sh(q.reschedule(id, delay=60)) is True
    assert rule.hits == 1
    assert tuple(await sh(q.size())) == (0, 0, 1, 0)


async def test_times_that_are_none(sh: Shell) -> None:
    """Refused before anything is sent, as by a put."""
    q = sh.queue()
    id = await sh(q.put(1))
    for wrong in ({}, {"delay": 1, "at": datetime.now(timezone.utc)}, {"delay": -1}, {"at": datetime.now()}):
        with pytest.raises(ConfigError, match="reschedule"):
            await sh(q.reschedule(id, **wrong))
    assert (await sh(q.size())).ready == 1
