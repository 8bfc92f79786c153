"""put(replicas=, fsync=): what was confirmed, what was not, and that a repeat waits for something."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import reliq
from reliq.errors import ConfigError, PutManyError, UnsupportedServer
from reliq.receipts import Receipt
from tests.conformance.shell import Shell
from tests.servers import RedisServer, ServerBinary
from tests.topologies import FAST, in_step, until


@pytest.fixture(scope="module")
def pair(binary: ServerBinary) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    with RedisServer(binary, extra_args=FAST) as primary, RedisServer(binary, extra_args=FAST) as replica:
        replica.cli("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: in_step(replica), "the replica is in step")
        yield primary, replica


@pytest.fixture
def replica(pair: tuple[RedisServer, RedisServer]) -> Iterator[RedisServer]:
    """The replica, which a test may freeze."""
    yield pair[1]
    pair[1].resume()


@pytest.fixture(params=["sync", "aio"])
async def sh(request: pytest.FixtureRequest, pair: Any, prefix: str) -> AsyncIterator[Shell]:
    shell = Shell(request.param, pair[0].url, prefix)
    yield shell
    await shell.finish()


async def test_the_receipt_says_what_was_confirmed(sh: Shell) -> None:
    """It is the id, as text, and knows how many replicas had the message; not asked for is None."""
    q = sh.queue()
    plain = await sh(q.put(1))
    assert (type(plain), plain.replicas, plain.fsynced) == (Receipt, None, None)
    sure = await sh(q.put(2, replicas=1))
    assert (len(sure), sure.replicas, sure.fsynced) == (32, 1, None)
    assert pickle.loads(pickle.dumps(sure)).replicas == 1
    many = await sh(q.put_many([3, 4], replicas=1))
    assert [receipt.replicas for receipt in many] == [1, 1]
    assert await sh.drain(q) == [1, 2, 3, 4]


async def test_a_shortfall_is_unknown_and_says_how_many(sh: Shell) -> None:
    """Two replicas asked for, one there: the message is in, and the error says 1 of 2."""
    q = sh.queue(timeout=0.5)
    with pytest.raises(reliq.OutcomeUnknown, match="1 of 2 replicas") as caught:
        await sh(q.put("x", replicas=2))
    [receipt] = caught.value.ids
    assert isinstance(receipt, Receipt)
    assert receipt.replicas == 1
    with pytest.raises(PutManyError, match="1 of 2 replicas") as partly:
        await sh(q.put_many(["y"], replicas=2))
    assert len(partly.value.unknown) == 1
    await sh(q.put("z"))  # by a series of its own: that of the shortfall is frozen for its repeat
    assert (await sh(q.size())).ready == 3


@pytest.mark.parametrize("named", [False, True])
async def test_a_repeat_waits_too(sh: Shell, replica: RedisServer, named: bool) -> None:
    """On a fresh connection too a repeat is confirmed only once the replica has the message; there is one copy."""
    q = sh.queue(timeout=1.0)
    options = {"id": "own"} if named else {}
    await sh(q.put("before", replicas=1))
    replica.suspend()
    with pytest.raises(reliq.OutcomeUnknown, match="0 of 1 replicas") as caught:
        await sh(q.put("x", replicas=1, **options))
    fresh = sh.queue(timeout=1.0)
    with pytest.raises(reliq.OutcomeUnknown, match="0 of 1 replicas"):
        await sh(fresh.repeat(caught.value))
    if named:  # by the id alone, from anywhere
        with pytest.raises(reliq.OutcomeUnknown, match="0 of 1 replicas"):
            await sh(sh.queue(timeout=1.0).put("x", replicas=1, **options))
    replica.resume()
    [receipt] = await sh(fresh.repeat(caught.value))
    assert receipt == caught.value.ids[0]
    assert receipt.replicas == 1
    assert await sh.drain(q) == ["before", "x"]


async def test_fsync_needs_a_server_that_has_it(sh: Shell, binary: ServerBinary) -> None:
    """Below 7.2 nothing is sent, and the error says so; from 7.2 on the receipt says that it is on disk."""
    q = sh.queue()
    if binary.version_info >= (7, 2):
        receipt = await sh(q.put(1, fsync=True, replicas=1))
        assert (receipt.fsynced, receipt.replicas) == (True, 1)
        return
    for replicas in (0, 1):
        with pytest.raises(UnsupportedServer, match=r"WAITAOF.*7\.2.*Nothing was put"):
            await sh(q.put(1, fsync=True, replicas=replicas))
    with pytest.raises(PutManyError) as partly:
        await sh(q.put_many([1], fsync=True))
    assert len(partly.value.refused) == 1
    assert (await sh(q.size())).ready == 0


@pytest.mark.parametrize("wrong", [{"replicas": -1}, {"replicas": True}, {"replicas": "1"}, {"fsync": 1}])
async def test_wrong_wishes(sh: Shell, wrong: dict[str, Any]) -> None:
    """Told at once."""
    with pytest.raises(ConfigError):
        await sh(sh.queue().put(1, **wrong))


async def test_a_primary_that_becomes_a_replica_and_back(sh: Shell, pair: Any) -> None:
    """UNBLOCKED, READONLY and MASTERDOWN mean not executed; the consumer that was blocked goes on by itself."""
    primary, replica = pair
    q = sh.queue(timeout=0.6, block=5.0)
    await sh(q.put(0))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.ack())
        task = sh.start(c.claim, timeout=10)
        replica.cli("REPLICAOF", "NO", "ONE")
        primary.cli("REPLICAOF", "127.0.0.1", replica.port)
        until(lambda: in_step(primary), "roles have changed")
        with pytest.raises(reliq.Unavailable, match="READONLY"):
            await sh(q.put(1))
        primary.cli("REPLICAOF", "NO", "ONE")
        await sh(q.put(2))
        (lease,) = await task
        assert lease.body == 2
        await sh(lease.ack())
    replica.cli("REPLICAOF", "127.0.0.1", primary.port)
    until(lambda: in_step(replica), "the replica is in step")


async def test_a_primary_that_comes_back_without_its_last_acks(sh: Shell, pair: Any) -> None:
    """It followed another one for a moment, and forgot: same process, another replication id. The consumer makes
    its acks again and delivers nothing twice, as after a failover to another process."""
    primary, replica = pair
    q = sh.queue(timeout=5.0, lease=20.0)
    await sh(q.put_many(range(5)))
    async with sh.open(q.consumer()) as c:
        leases = await sh(c.claim(5, timeout=5))
        await sh(sh.queue("other").put("x", replicas=1))  # and with it, that the five are claimed
        replica.cli("REPLICAOF", "NO", "ONE")
        for lease in leases:
            await sh(lease.ack())
        primary.cli("REPLICAOF", "127.0.0.1", replica.port)
        until(lambda: in_step(primary), "it has forgotten the acks")
        primary.cli("REPLICAOF", "NO", "ONE")
        replica.cli("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: in_step(replica), "the replica is in step")
        await sh(sh.queue().put("last"))
        bodies: list[Any] = []
        while "last" not in bodies:
            for lease in await sh(c.claim(10, timeout=10)):
                bodies.append(lease.body)
                await sh(lease.ack())
    assert bodies == ["last"]
