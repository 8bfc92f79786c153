"""Results and idempotency keys in a Cluster: waited for at the node of the queue, also when its slot has moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import reliq
from tests.conformance.shell import Shell
from tests.topologies import Cluster


@pytest.fixture(params=["sync", "aio"])
async def sh(request: pytest.FixtureRequest, cluster: Cluster, prefix: str) -> AsyncIterator[Shell]:
    shell = Shell(request.param, cluster.url, prefix)
    yield shell
    await shell.finish()


async def test_waits_follow_the_slot(sh: Shell, cluster: Cluster) -> None:
    """Who waits is woken wherever the queue is; a message with a key that is done tells of the first one."""
    for name in ("emails", "orders", "reports"):
        q, seen = sh.queue(name, block=1), list[Any]()

        async def handle(body: Any, seen: list[Any] = seen) -> str:
            seen.append(body)
            return f"run {len(seen)}"

        def plain(body: Any, seen: list[Any] = seen) -> str:
            seen.append(body)
            return f"run {len(seen)}"

        handler = q.ack(reliq.idempotent(key="k")(plain if sh.name == "sync" else handle))
        receipts = [await sh(q.put({"k": 1}, result=60)) for _ in range(2)]
        waits = [sh.start(receipt.result, 30) for receipt in receipts]
        await asyncio.sleep(0.2)
        await sh(sh.Worker(handler, until_empty=True, concurrency=1, signals=False).run())
        assert await asyncio.gather(*waits) == ["run 1", "run 1"]
        assert len(seen) == 1


async def test_a_wait_outlives_a_migration(sh: Shell, cluster: Cluster) -> None:
    """The slot moves to another node while somebody waits there."""
    q = sh.queue("moving", block=1)
    receipt = await sh(q.put({"k": 1}, result=60))
    wait = sh.start(receipt.result, 60)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(cluster.migrate_slot, q.options.keys.ready)
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=10))
        await sh(lease.ack(result="moved"))
    assert await wait == "moved"
