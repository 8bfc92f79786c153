"""explain on a Cluster: the queues of a prefix are on several nodes, and each is looked at where it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

import reliq
from reliq.core.reasons import Reason
from tests.conformance.shell import Shell
from tests.topologies import Cluster


@pytest.fixture(params=["sync", "aio"])
async def sh(request: pytest.FixtureRequest, cluster: Cluster, prefix: str) -> AsyncIterator[Shell]:
    shell = Shell(request.param, cluster.url, prefix)
    yield shell
    await shell.finish()


async def test_in_queues_on_other_nodes(sh: Shell, cluster: Cluster) -> None:
    """A message is found in whatever queue it is, on whatever node, also in a list of nobody there."""
    queues = [sh.queue(f"q{n}") for n in range(6)]
    ids = [await sh(queue.put(n)) for n, queue in enumerate(queues)]
    assert len({cluster.owner(queue.options.keys.ready).port for queue in queues}) > 1
    for n, id in enumerate(ids):
        found = await sh(queues[0].explain(id))
        assert (found.queue, found.state, found.position) == (f"q{n}", "ready", 1)
    for n, queue in enumerate(queues):
        keys = queue.options.keys
        with cluster.client_of(keys.ready) as client:
            client.lmove(keys.ready, keys.doing("ghost"), "RIGHT", "RIGHT")
        found = await sh(queues[0].explain(ids[n]))
        assert (found.queue, found.reason, found.consumer) == (f"q{n}", Reason.UNREGISTERED, "ghost")


async def test_nowhere_on_any_node(sh: Shell) -> None:
    """All of them were looked at before that is said."""
    queues = [sh.queue(f"q{n}") for n in range(4)]
    for queue in queues:
        await sh(queue.put(1))
    found = await sh(queues[1].explain("0198c1f2a3b47c5d8e9f0a1b2c3d4e5f"))
    assert found.reason is Reason.DONE_OR_NEVER_PUT
    assert "nowhere in q1, q0, q2, q3" in found.why


async def test_while_the_slot_migrates(sh: Shell, cluster: Cluster) -> None:
    """Some of the queue's keys are on one node, some on the other. Redis may refuse to look into both (TRYAGAIN),
    which is said; no answer is wrong."""
    queue = sh.queue("moving", timeout=0.5)
    places = {await sh(queue.put(1)): "ready", await sh(queue.put(2, delay=3600)): "later"}
    asked = 0
    for step in cluster.migration(queue.options.keys.ready):
        for id, place in places.items():
            asked += 1
            with suppress(reliq.Unavailable):
                assert (step, (await sh(queue.explain(id))).state) == (step, place)
    assert asked == 6
    for id, place in places.items():
        assert (await sh(queue.explain(id))).state == place
