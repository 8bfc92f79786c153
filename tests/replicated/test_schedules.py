"""Schedules where the primary changes: ticks go on at the new one, and in a Cluster at the node of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.conformance.shell import Shell, until
from tests.conformance.test_worker import at_work
from tests.replicated.conftest import Cluster, Replicated


@pytest.fixture(params=["sync", "aio"])
async def in_cluster(request: pytest.FixtureRequest, cluster: Cluster, prefix: str) -> AsyncIterator[Shell]:
    shell = Shell(request.param, cluster.url, prefix)
    yield shell
    await shell.finish()


@pytest.fixture(params=["sync", "aio"])
async def failing_over(
    request: pytest.FixtureRequest, replicated: Replicated, prefix: str
) -> AsyncIterator[Shell]:
    shell = Shell(request.param, replicated.url, prefix)
    yield shell
    await shell.finish()


async def test_in_a_cluster(in_cluster: Shell, cluster: Cluster) -> None:
    """Queues of several slots: scheduled, listed, fired and removed at their nodes."""
    sh = in_cluster
    queues = [sh.queue(name) for name in ("a", "b", "c", "d")]
    for q in queues:
        await sh(q.schedule("s", q.name, every=1))
    assert len({cluster.owner(q.options.keys.ticks).port for q in queues}) > 1
    await asyncio.sleep(1.1)
    assert await sh(sh.Scheduler(*queues).run_once()) >= 4
    for q in queues:
        assert [s.body for s in await sh(q.schedules())] == [q.name]
        assert await sh(q.unschedule("s")) is True
        assert set(await sh.drain(q)) == {q.name}


async def test_ticks_go_on_after_a_failover(failing_over: Shell, replicated: Replicated) -> None:
    """The worker that has fired them at the old primary does so at the new one: none is left out."""
    sh, seen = failing_over, dict[str, datetime]()
    q = sh.queue(timeout=5.0)

    def handle(body: Any, lease: Any) -> None:
        seen[lease.id] = lease.tick

    await sh(q.schedule("s", 1, cron="* * * * * *"))
    async with at_work(sh, sh.Worker(q.ack(handle), signals=False)):
        assert await until(lambda: len(seen) >= 2)
        await asyncio.to_thread(replicated.failover)
        before = len(seen)
        assert await until(lambda: len(seen) >= before + 4, seconds=30)
    ticks = sorted(seen.values())
    assert ticks == [ticks[0] + timedelta(seconds=n) for n in range(len(ticks))]
