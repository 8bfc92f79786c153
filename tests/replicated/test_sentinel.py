"""Sentinels: the primary is found, followed, and told from a stale one; workers go on by themselves."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq import aio
from tests.conformance.shell import Shell, events
from tests.replicated.traffic import traffic
from tests.servers import RedisServer, ServerBinary
from tests.topologies import FAST, Replicated, in_step, until


@pytest.fixture(scope="module")
def shared(binary: ServerBinary) -> Iterator[Replicated]:
    """One for the tests that leave it as it was, or turned round."""
    with Replicated(binary) as running:
        yield running


@pytest.fixture(params=["sync", "aio"])
async def sh(request: pytest.FixtureRequest, shared: Replicated, prefix: str) -> AsyncIterator[Shell]:
    shell = Shell(request.param, shared.url, prefix)
    yield shell
    await shell.finish()


async def test_the_same_queue_goes_on_after_a_failover(sh: Shell, shared: Replicated) -> None:
    """What was put before is there after, and an idle connection to the old primary does no harm."""
    q = sh.queue(timeout=5.0)
    await sh(q.put("before", replicas=1))
    first = shared.primary
    second = await asyncio.to_thread(shared.failover)
    assert second is not first
    await sh(q.put("after"))
    assert await sh.drain(q) == ["before", "after"]
    assert second.client().exists(q.options.keys.stats)


async def test_an_open_consumer_goes_on_after_a_failover(sh: Shell, shared: Replicated) -> None:
    """A lease that was claimed from the old primary is settled at the new one."""
    q = sh.queue(timeout=5.0)
    await sh(q.put("one", replicas=1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        await sh(q.put("two", replicas=1))  # the claim before it is replicated too
        await asyncio.to_thread(shared.failover)
        await sh(lease.ack())
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.body == "two"
        await sh(lease.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_a_mapping_names_the_sentinels(sh: Shell, shared: Replicated) -> None:
    """As a list of them, with the name of the master; a pool follows a failover, and warm connections too."""
    nodes = [f"127.0.0.1:{sentinel.port}" for sentinel in shared.sentinels]
    said = {"nodes": nodes, "master": "mymaster", "pool_size": 2, "min_idle": 2}
    q = sh.queue(url=None, settings=said)
    await sh(q.put("before", replicas=1))
    await asyncio.to_thread(shared.failover)
    await sh(q.put("after"))
    assert await sh.drain(q) == ["before", "after"]
    assert q.settings.address().nodes == reliq.Settings.parse(shared.url).address().nodes


async def test_a_name_that_no_sentinel_knows(sh: Shell, shared: Replicated) -> None:
    """The error names the sentinels and the master."""
    q = sh.queue(url=shared.url.replace("/mymaster/", "/other/"))
    with pytest.raises(reliq.Unavailable) as caught:
        await sh(q.ping())
    assert "'other'" in str(caught.value)
    assert all(str(sentinel.port) in str(caught.value) for sentinel in shared.sentinels)


async def test_a_dead_and_a_silent_sentinel_are_passed_over(sh: Shell, shared: Replicated) -> None:
    """The next one is asked, after a second at most."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hosts = f"127.0.0.1:1,127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{shared.sentinels[0].port}"
        q = sh.queue(url=f"redis+sentinel://{hosts}/mymaster")
        started = time.monotonic()
        assert await sh(q.ping()) == shared.binary.version
        assert time.monotonic() - started < 2.0


class FakeSentinel:
    """A sentinel that names whom it is told to name."""

    def __init__(self, names: RedisServer) -> None:
        self.names = names
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis+sentinel://127.0.0.1:{self._server.getsockname()[1]}/mymaster"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                with peer:
                    while data := peer.recv(4096):
                        peer.sendall(self._reply() if b"get-master" in data.lower() else b"+OK\r\n")

    def _reply(self) -> bytes:
        port = str(self.names.port).encode()
        return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)

    def __enter__(self) -> FakeSentinel:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


async def test_a_sentinel_that_names_a_replica_is_not_believed(sh: Shell, shared: Replicated) -> None:
    """ROLE tells: the next sentinel is asked; with no other, the error says what it is."""
    with FakeSentinel(shared.replica) as stale:
        good = shared.sentinels[0].port
        q = sh.queue(url=stale.url.replace("/mymaster", f",127.0.0.1:{good}/mymaster"))
        await sh(q.put(1))
        assert await sh.drain(q) == [1]
        alone = sh.queue(url=stale.url)
        with pytest.raises(reliq.Unavailable, match="is a slave"):
            await sh(alone.ping())


@pytest.mark.parametrize("how", ["SENTINEL FAILOVER", "kill -9"])
async def test_workers_go_on_by_themselves(replicated: Replicated, tmp_path: Path, prefix: str, how: str) -> None:
    """A supervised and an asyncio worker find the new primary; nothing is lost that a replica has confirmed, and
    nothing else but what the old primary took without its replica."""
    async with traffic(replicated, tmp_path, prefix) as t:
        began = time.monotonic()
        if how == "kill -9":
            await asyncio.to_thread(replicated.kill_primary)
        else:
            await asyncio.to_thread(replicated.failover, split=0.7)
        ended = time.monotonic()
        await t.grows()
        await t.drained()
    lost = t.lost
    print(
        f"{how}: {len(t.puts)} confirmed, {len(t.safe)} by a replica, {len(lost)} lost, {t.shortfalls} shortfalls"
    )
    assert not t.safe & lost.keys()
    assert all(began - 0.5 <= at <= ended + 0.1 for at in lost.values())
    if how == "SENTINEL FAILOVER":
        assert t.shortfalls, "nobody was told that the old primary had no replica"
    assert tuple(await _size(replicated, prefix)) == (0, 0, 0, 0)


async def _size(replicated: Replicated, prefix: str) -> tuple[int, ...]:
    async with aio.Queue("work", replicated.url, prefix=prefix) as queue:
        return tuple(await queue.size())


@pytest.mark.parametrize("shell", ["sync", "aio"])
async def test_what_a_failover_brings_back_is_settled_again(binary: ServerBinary, prefix: str, shell: str) -> None:
    """Acks that the replica never saw: the same consumer makes them again and does not deliver those messages."""
    with (
        RedisServer(binary, extra_args=FAST) as old,
        RedisServer(binary, extra_args=FAST) as new,
        FakeSentinel(old) as sentinel,
    ):
        new.cli("REPLICAOF", "127.0.0.1", old.port)
        until(lambda: in_step(new), "the replica is in step")
        sh = Shell(shell, sentinel.url, prefix)
        q = sh.queue(timeout=5.0, lease=20.0)
        await sh(q.put_many(range(10)))
        async with sh.open(q.consumer()) as c:
            leases = await sh(c.claim(10, timeout=5))
            await sh(sh.queue("other").put("x", replicas=1))  # and with it, that the ten are claimed
            new.cli("REPLICAOF", "NO", "ONE")
            bodies = await _acked(sh, leases)
            sentinel.names = new
            old.kill()
            with new.client() as client:
                assert client.llen(q.options.keys.doing(c.name)) == 10  # all of them are back
            await sh(q.put("last"))
            while "last" not in bodies:
                bodies += await _acked(sh, await sh(c.claim(20, timeout=15)))
        assert bodies == [*range(10), "last"]
        assert tuple(await sh(q.size())) == (0, 0, 0, 0)
        await sh.finish()


@pytest.mark.parametrize("shell", ["sync", "aio"])
async def test_what_is_delivered_again_after_a_failover_has_a_cause(
    binary: ServerBinary, prefix: str, shell: str
) -> None:
    """Somebody else gets a message that was acked before: no reap and no retry explains it, so the ledger has to
    say that the server forgot things."""
    with (
        RedisServer(binary, extra_args=FAST) as old,
        RedisServer(binary, extra_args=FAST) as new,
        FakeSentinel(old) as sentinel,
    ):
        new.cli("REPLICAOF", "127.0.0.1", old.port)
        until(lambda: in_step(new), "the replica is in step")
        sh = Shell(shell, sentinel.url, prefix)
        q = sh.queue(timeout=5.0)
        await sh(q.put("once"))
        assert await sh.drain(q) == ["once"]
        await sh(q.put("twice", replicas=1))
        new.cli("REPLICAOF", "NO", "ONE")
        assert await sh.drain(q) == ["twice"]
        sentinel.names = new
        old.kill()
        assert await sh.drain(q) == ["twice"]
        with new.client() as client:
            assert "rollback" in {event for event, _ in events(client, q)}
        await sh.finish()


async def _acked(sh: Shell, leases: list[Any]) -> list[Any]:
    for lease in leases:
        await sh(lease.ack())
    return [lease.body for lease in leases]
