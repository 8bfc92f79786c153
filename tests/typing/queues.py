"""What type checkers must see in both queues. Checked by `mypy --strict` in scripts/check, never run."""

from __future__ import annotations

from datetime import datetime, timezone

from typing_extensions import assert_type

import reliq
from reliq import aio
from reliq.core.flows import Sizes
from reliq.receipts import Receipt

AT = datetime(2030, 1, 31, tzinfo=timezone.utc)


def sync(q: reliq.Queue) -> None:
    assert_type(q.put({"to": "ada"}), Receipt)
    assert_type(q.put(b"raw", id="order-1", delay=1.5), Receipt)
    assert_type(q.put(None, at=AT), Receipt)
    assert_type(q.put_many([1, 2], delay=3), list[str])
    assert_type(q.put_many(range(3), at=AT), list[str])
    assert_type(q.put(1, replicas=1, fsync=True).replicas, int | None)
    assert_type(q.put(1, fsync=True).fsynced, bool | None)
    assert_type(q.size(), Sizes)
    assert_type(q.ping(), str)
    assert_type(q.explain("order-1"), reliq.Explanation)
    assert_type(q.revive("order-1"), bool)
    assert_type(q.cancel("order-1", by="ada"), bool)
    assert_type(q.reschedule("order-1", delay=5), bool)
    assert_type(q.explain("order-1", deep=False).position, int | None)
    q.put({"to": "ada"}, "id")  # type: ignore[call-arg]
    q.put({"to": "ada"}, id=5)  # type: ignore[arg-type]
    q.put({"to": "ada"}, at="tomorrow")  # type: ignore[arg-type]
    q.put_many(1)  # type: ignore[arg-type]
    with q, q.consumer(prefetch=10, until_empty=True) as consumer:
        assert_type(consumer, reliq.Consumer)
        assert_type(consumer.claim(10, timeout=1), list[reliq.Lease])
        for lease in consumer:
            with lease as same:
                assert_type(same, reliq.Lease)
                lease.retry(5, reason="later")
    assert_type(reliq.Reaper(q).run_once(), reliq.ReapReport)


async def asynchronous(q: aio.Queue) -> None:
    assert_type(await q.put({"to": "ada"}), Receipt)
    assert_type(await q.put(b"raw", id="order-1", delay=1.5), Receipt)
    assert_type(await q.put(None, at=AT), Receipt)
    assert_type(await q.put_many([1, 2], delay=3), list[str])
    assert_type(await q.size(), Sizes)
    assert_type(await q.ping(), str)
    assert_type(await q.explain("order-1", deep=False), reliq.Explanation)
    assert_type(await q.revive("order-1"), bool)
    assert_type(await q.cancel("order-1", by="ada"), bool)
    assert_type(await q.reschedule("order-1", delay=5), bool)
    await q.put({"to": "ada"}, "id")  # type: ignore[call-arg]
    await q.put({"to": "ada"}, id=5)  # type: ignore[arg-type]
    async with q, q.consumer(prefetch=10, until_empty=True) as consumer:
        assert_type(consumer, aio.Consumer)
        assert_type(await consumer.claim(10, timeout=1), list[aio.Lease])
        async for lease in consumer:
            async with lease as same:
                assert_type(same, aio.Lease)
                await lease.retry(5, reason="later")
    assert_type(await aio.Reaper(q).run_once(), reliq.ReapReport)


def errors(q: reliq.Queue) -> None:
    try:
        q.put(1)
    except reliq.QueueFull as full:
        assert_type(full.code, str)
    except reliq.OutcomeUnknown as unknown:
        assert_type(q.repeat(unknown), list[str])


def settings() -> None:
    found = reliq.Settings.of({"host": "localhost", "pool_size": 4})
    assert_type(found, reliq.Settings)
    assert_type(found.pool_size, int)
    reliq.Queue("q", settings=found)
    aio.Queue("q", settings={"host": "localhost"})
    reliq.Queue("q", settings="redis://localhost")  # type: ignore[arg-type]
    reliq.Settings(pool_sise=4)  # type: ignore[call-arg]
