"""Cluster: every command finds the node of its slot, through MOVED, ASK, TRYAGAIN, migrations and dead nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.core import ops
from reliq.core.topology import SLOTS, slot_of
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, expire
from tests.replicated.traffic import traffic
from tests.topologies import Cluster


@pytest.fixture(params=["sync", "aio"])
async def sh(request: pytest.FixtureRequest, cluster: Cluster, prefix: str) -> AsyncIterator[Shell]:
    shell = Shell(request.param, cluster.url, prefix)
    yield shell
    await shell.finish()


def said(cluster: Cluster) -> dict[str, int]:
    """How often the nodes have answered with each error, in all."""
    total: dict[str, int] = {}
    for node in cluster.up():
        with node.client() as client:
            stats: Any = client.info("errorstats")
        for name, value in stats.items():
            code = name.removeprefix("errorstat_")
            total[code] = total.get(code, 0) + int(value["count"])
    return total


async def test_one_node_is_enough_to_find_the_others(sh: Shell, cluster: Cluster) -> None:
    """With the URL of any single node, queues of all slots work, and their index is found."""
    for number in range(6):
        q = sh.queue(f"q{number}", url=cluster.nodes[number].url)
        await sh(q.put(number, delay=0.01))
        await sh(q.put_many([1, 2]))
        async with sh.open(q.consumer()) as c:
            bodies = []
            for _ in range(3):
                (lease,) = await sh(c.claim(timeout=5))
                bodies.append(lease.body)
                await sh(lease.ack())
        assert sorted(bodies) == sorted([number, 1, 2])
        keys = q.options.keys
        assert await sh(q.ping()) == cluster.binary.version
        with cluster.client_of(keys.queues) as client:
            assert client.hexists(keys.queues, q.name)
    assert len({cluster.owner(sh.queue(f"q{n}").options.keys.ready).port for n in range(6)}) > 1


async def test_a_reaper_looks_at_the_node_of_the_queue(sh: Shell, cluster: Cluster) -> None:
    """Ended leases, and lists that nobody registered, are found on the node that has the queue's slot."""
    for name in ("a", "b", "c", "d"):
        q = sh.queue(name, lease=0.5)
        keys = q.options.keys
        await sh(q.put_many(["doing", "stray"]))
        consumer = q.consumer()
        await consumer.__aenter__() if sh.name == "aio" else consumer.__enter__()
        (lease,) = await sh(consumer.claim(timeout=5))
        with cluster.client_of(keys.ready) as client:
            client.lmove(keys.ready, keys.inbox("nobody"), "RIGHT", "RIGHT")
            expire(client, q, consumer)
            report = await sh(sh.Reaper(q).run_once())
            # Or the consumer's own sweep, with which it began, was there a moment before.
            assert "nobody" in report.adopted or client.zscore(keys.consumers, "nobody") is not None
            server = (await sh(q.links.server())) if sh.name == "aio" else q.links.server
            assert server.run_id == client.info("server")["run_id"]
        with pytest.raises(reliq.LeaseLost):
            await sh(lease.ack())
        await sh.close(consumer)


async def test_a_list_whose_slot_no_tag_has_is_refused(sh: Shell) -> None:
    """At the first operation, before anything is written, with the reason; other lists are adopted."""
    q = sh.queue("odd", key="a}b")
    with pytest.raises(ConfigError, match=r"a}b.*Cluster|Cluster.*a}b"):
        await sh(q.put(1))
    with pytest.raises(ConfigError):
        await sh(q.ping())
    fine = sh.queue("fine", key="shop:{orders}:in")
    await sh(fine.put(1))
    assert await sh.drain(fine) == [1]


async def test_a_mapping_names_the_nodes(sh: Shell, cluster: Cluster) -> None:
    """As a list of some of them; queues of all nodes are reached, each node by a pool of its own."""
    said = {"nodes": [f"127.0.0.1:{node.port}" for node in cluster.nodes], "pool_size": 1, "min_idle": 1}
    queues = [sh.queue(f"n{n}", url=None, settings=said) for n in range(6)]
    for n, q in enumerate(queues):
        await sh(q.put(n))
    assert sum(map(bool, connected(cluster))) == 3  # the primaries
    for n, q in enumerate(queues):
        assert await sh.drain(q) == [n]


def connected(cluster: Cluster) -> list[int]:
    """How many connections of queues each node has."""
    counts = []
    for node in cluster.nodes:
        with node.client() as client:
            counts.append(sum(each["name"] == "reliq" for each in client.client_list()))
    return counts


async def test_a_database_other_than_0(sh: Shell, cluster: Cluster) -> None:
    """Said at once, with what to do."""
    q = sh.queue(url=cluster.nodes[0].url.replace("/0", "/3"))
    with pytest.raises(reliq.ReliqError, match=r"database"):
        await sh(q.ping())
    with pytest.raises(ConfigError, match="only 0"):
        await sh(sh.queue(url=cluster.url[:-1] + "3").ping())


async def test_a_put_waits_for_the_end_of_a_migration(sh: Shell, cluster: Cluster) -> None:
    """MOVED, ASK and TRYAGAIN mean not executed: the put is tried again, and is in once."""
    q = sh.queue(timeout=5.0)
    await sh(q.put(0))
    before, bodies = said(cluster), [0]
    while bodies[-1] < 8:  # which of them a put meets is a matter of ms
        bodies.append(bodies[-1] + 1)
        for step in cluster.migration(q.options.keys.ready):
            if step == "half":
                # Other than a plain put, it has keys that are nowhere, so that neither node can know.
                task = sh.start(q.put, bodies[-1], id=f"{bodies[-1]}")
                await asyncio.sleep(0.2)
                assert not task.done()
        await task
        after = said(cluster)
        if all(after.get(code, 0) > before.get(code, 0) for code in ("ASK", "TRYAGAIN", "MOVED")):
            break
    else:
        pytest.fail(f"not all of them were met: {before}, {after}")
    assert await sh.drain(q) == bodies


async def test_a_command_that_asks_aside_is_run_there(sh: Shell, cluster: Cluster) -> None:
    """What is whole on the new node is answered by it, before the slot is its own."""
    q = sh.queue(timeout=5.0)
    await sh(q.put_many([1, 2, 3]))
    length = ops.length(q.options.keys.ready)
    lengths = []
    for _ in cluster.migration(q.options.keys.ready):
        lengths.append(await sh(q.links.run(length)))
        several = await sh(q.links.pipeline([length, length]))
        assert several == [3, 3]
    assert lengths == [3, 3, 3]


async def test_an_idle_consumer_is_woken_after_its_slot_has_moved(sh: Shell, cluster: Cluster) -> None:
    """Its BLMOVE was sent off with MOVED, and waits on the new node."""
    q = sh.queue(block=5.0, timeout=5.0)
    await sh(q.put("first"))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.ack())
        task = sh.start(c.claim, timeout=10)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(cluster.migrate_slot, q.options.keys.ready)
        await asyncio.sleep(0.3)
        await sh(q.put("second"))
        (lease,) = await asyncio.wait_for(task, 3.0)
        assert lease.body == "second"
        await sh(lease.ack())


async def test_a_dead_primary_is_left_for_its_heir(sh: Shell, cluster: Cluster) -> None:
    """CLUSTER FAILOVER, then kill -9 of the owner: the same queue and consumer go on.

    Of another shard for each shell: a Redis that wins two elections within four seconds can count the votes of the
    first for the second, and then its slots are believed by nobody (seen on 6.2 and 7.0).
    """
    shard = 0 if sh.name == "sync" else 2
    name = next(f"q{n}" for n in range(100) if slot_of(f"{{q{n}}}") * 3 // SLOTS == shard)
    q = sh.queue(name, timeout=8.0)
    key = q.options.keys.ready
    async with sh.open(q.consumer()) as c:
        for deed in (None, cluster.failover, cluster.kill_primary):
            if deed is not None:
                await asyncio.to_thread(deed, key)
            with contextlib.suppress(reliq.OutcomeUnknown):
                await sh(q.put(str(deed), replicas=0 if deed == cluster.kill_primary else 1))
            (lease,) = await sh(c.claim(timeout=10))
            assert lease.body == str(deed)
            await sh(lease.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_a_cluster_with_no_node_left_names_them(sh: Shell) -> None:
    """The error says what was asked."""
    q = sh.queue(url="redis://127.0.0.1:1,127.0.0.1:2/0")
    with pytest.raises(reliq.Unavailable, match=r"127.0.0.1:1.*127.0.0.1:2"):
        await sh(q.put(1))


async def test_workers_go_on_while_a_slot_is_migrated(cluster: Cluster, tmp_path: Path, prefix: str) -> None:
    """Nothing is lost, nothing is handled twice, and MOVED, ASK and TRYAGAIN were all seen."""
    key = reliq.Queue("work", cluster.url, prefix=prefix).options.keys.ready
    before = said(cluster)

    def unseen() -> list[str]:
        now = said(cluster)
        return [code for code in ("ASK", "TRYAGAIN", "MOVED") if now.get(code, 0) == before.get(code, 0)]

    async with traffic(cluster, tmp_path, prefix) as t:
        for _ in range(6):  # which of them a migration meets is a matter of moments
            await asyncio.to_thread(cluster.migrate_slot, key, pause=0.3)
            await t.grows()
            if not unseen():
                break
        await t.drained()
    assert t.lost == {}
    assert set(t.handled().values()) == {1}
    assert unseen() == []


async def test_workers_go_on_after_kill_9_of_the_primary(cluster: Cluster, tmp_path: Path, prefix: str) -> None:
    """A supervised and an asyncio worker find the heir; nothing is lost that a replica has confirmed."""
    key = reliq.Queue("work", cluster.url, prefix=prefix).options.keys.ready
    async with traffic(cluster, tmp_path, prefix) as t:
        old, new = cluster.owner(key), await asyncio.to_thread(cluster.kill_primary, key)
        assert old is not new
        await t.grows()
        await t.drained()
    print(f"kill -9: {len(t.puts)} confirmed, {len(t.safe)} by a replica, {len(t.lost)} lost")
    assert not t.safe & t.lost.keys()
    assert slot_of(key) == slot_of(reliq.Queue("work", prefix=prefix).options.keys.consumers)
