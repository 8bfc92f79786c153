"""Queue.revive: a dead letter is a message again, once, in both shells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliq.core import scripts
from tests.conformance.shell import Shell
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the script by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts["revive"] = scripts.revive.sha
        yield running


async def bury(sh: Shell, id: str | None = None) -> str:
    """Put a message, and let its handler give it up."""
    q = sh.queue()
    put = await sh(q.put({"n": 1}, id=id))
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1))
        await sh(lease.bury("no such account"))
    return str(put)


async def test_revived_with_its_attempts_and_a_larger_fence(sh: Shell) -> None:
    """It is ready, its attempts begin anew, and its fence is larger; a second time there is nothing to revive."""
    id = await bury(sh)
    q = sh.queue()
    assert await sh(q.revive(id)) is True
    assert await sh(q.revive(id)) is False
    assert tuple(await sh(q.size())) == (1, 0, 0, 0)
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(1))
        assert (lease.id, lease.body, lease.attempt, lease.fence) == (id, {"n": 1}, 1, 3)
        await sh(lease.ack())


async def test_by_an_id_of_the_users_own(sh: Shell) -> None:
    """The text that put was given names the letter, too."""
    await bury(sh, "order-17")
    q = sh.queue()
    assert await sh(q.revive("order-18")) is False
    assert await sh(q.revive("order-17")) is True


async def test_lost_reply_of_a_revive(sh: Shell, proxy: FaultProxy) -> None:
    """Redis ran it and the answer vanished: True all the same, and there is one message."""
    id = await bury(sh)
    q = sh.queue(url=proxy.url)
    rule = proxy.on(script="revive", action=drop_reply())
    assert await sh(q.revive(id)) is True
    assert rule.hits == 1
    assert tuple(await sh(q.size())) == (1, 0, 0, 0)
