"""The exclusive mode through failovers and a slot that moves: it goes on under its lock, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.shell import Shell
from tests.topologies import Cluster, Replicated


@pytest.fixture(params=["sync", "aio"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def copied(sh: Shell, mishap: Callable[[Any], Any]) -> tuple[list[int], int]:
    """1,000 messages in batches of 50, with a mishap in the middle: what was handled, and the last fence."""
    q = sh.queue("rows", lease=5.0)
    await sh(q.put_many(range(1000), replicas=1))
    handled: list[int] = []
    fence = 0
    async with sh.open(q.exclusive(batch=50, until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                assert batch.fence > fence
                fence = batch.fence
                handled += batch.bodies
                if batch.number == 7:
                    await asyncio.to_thread(mishap, q)
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    return handled, fence


async def test_a_failover_by_sentinel(replicated: Replicated, prefix: str, shell: str) -> None:
    """Handled again is at most what the new primary has forgotten; nothing is skipped."""
    sh = Shell(shell, replicated.url, prefix)
    handled, _ = await copied(sh, lambda q: replicated.failover())
    await sh.finish()
    assert list(dict.fromkeys(handled)) == list(range(1000))
    assert len(handled) <= 1100


@pytest.mark.parametrize("what", ["failover", "migration"])
async def test_a_cluster_whose_slot_moves(cluster: Cluster, prefix: str, shell: str, what: str) -> None:
    """To a replica, or key by key to another primary: all in order, and by a migration nothing twice."""
    sh = Shell(shell, cluster.url, prefix)

    def mishap(q: Any) -> None:
        key = q.options.keys.ready
        if what == "failover":
            cluster.failover(key)
        else:
            cluster.migrate_slot(key, pause=0.5)

    handled, _ = await copied(sh, mishap)
    await sh.finish()
    assert list(dict.fromkeys(handled)) == list(range(1000))
    if what == "migration":
        assert len(handled) == 1000
