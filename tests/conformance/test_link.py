"""A connection, and the two halves of a round trip: a reply is read by who sent its command, or by nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import ops
from reliq.core.command import Command
from reliq.errors import OutcomeUnknown, WrongKeyType
from reliq.sync import wire
from tests.conformance.shell import Shell, until
from tests.faults.proxy import FaultProxy, drop_reply, reply_error, trickle
from tests.servers import ExternalServer, RedisServer


def echo(text: str) -> Command:
    """A command with a reply of its own."""
    return Command("ECHO", (), (text,), lambda reply: reply.decode())


@pytest.fixture(params=["hiredis", "redis-py alone"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways on which the blocking shell talks to its sockets."""
    if request.param == "redis-py alone":
        monkeypatch.setattr(wire, "Reader", None)
    return str(request.param)


@pytest.fixture
async def link(sh: Shell, way: str) -> AsyncIterator[Any]:
    """A connection that has been made."""
    made = await sh(sh.queue().links.new())
    await sh(made.connect())
    yield made
    await sh.close(made)


async def test_two_halves(sh: Shell, link: Any) -> None:
    """send, then receive: the reply; in between the connection is left as it is, whoever asks for it."""
    client_id = link.server.client_id
    for text in ("a", "b"):
        await sh(link.send(echo(text)))
        assert link.unread
        assert await sh(link.connect()) is False
        assert await sh(link.receive(echo(text))) == text
        assert not link.unread
    assert await sh(link.run(Command("CLIENT", (), ("ID",)))) == client_id


async def test_what_nobody_read_is_nobodys(sh: Shell, link: Any) -> None:
    """A command behind one whose reply was never read gets its own reply, on a new connection."""
    client_id = link.server.client_id
    await sh(link.send(echo("lost")))
    assert await sh(link.run(echo("mine"))) == "mine"
    await sh(link.send(echo("lost")))
    assert await sh(link.pipeline([echo("x"), echo("y")])) == ["x", "y"]
    assert link.server.client_id > client_id


async def test_halves_need_a_connection(sh: Shell, link: Any) -> None:
    """Without a connection nothing is sent, certainly; a reply whose connection was closed is unknown for ever."""
    await sh(link.send(echo("a")))
    await sh.close(link)
    assert not link.unread
    with pytest.raises(reliq.OutcomeUnknown):
        await sh(link.receive(echo("a")))
    with pytest.raises(reliq.Unavailable):
        await sh(link.send(echo("b")))
    assert await sh(link.run(echo("c"))) == "c"


async def test_half_of_what_was_sent_may_have_run(
    server: RedisServer | ExternalServer, prefix: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that takes the put and fails on the WAIT behind it: the put is not refused, but unknown."""
    with reliq.Queue("q", server.url, prefix=prefix, timeout=1.0) as queue:
        queue.put(0)
        put = queue._producers.take().put([b"1"], ops.NOW, "", ops.Confirm(replicas=1, ms=1))
        link = queue.links.new()
        link.connect()
        straight = type(link._wire).send

        def partly(self: Any, packed: Any) -> None:
            straight(self, b"".join([packed] if isinstance(packed, bytes) else packed)[:-5])
            raise TimeoutError

        monkeypatch.setattr(type(link._wire), "send", partly)
        with pytest.raises(OutcomeUnknown):
            link.run(put)
        monkeypatch.undo()
        assert await until(lambda: queue.size().ready == 2)


async def test_second_half_sends_the_source(sh: Shell, link: Any) -> None:
    """A script that the server has forgotten between two trips is sent in full, by the half that learns it."""
    keys = sh.queue().options.keys
    await sh(link.run(Command("SCRIPT", (), ("FLUSH",))))
    command = ops.put(keys, b"producer", 1, [b"a"])
    await sh(link.send(command))
    assert await sh(link.receive(command)) is True
    await sh(link.send(command))
    assert await sh(link.receive(command)) is False


async def test_error_reply_in_the_second_half(sh: Shell, link: Any, redis: redis_py.Redis) -> None:
    """An error reply is raised by receive, and the connection stays good."""
    keys = sh.queue().options.keys
    redis.set(keys.ready, "no list")
    await sh(link.send(ops.put(keys, b"producer", 1, [b"a"])))
    with pytest.raises(WrongKeyType):
        await sh(link.receive(ops.put(keys, b"producer", 1, [b"a"])))
    assert await sh(link.connect()) is False
    assert await sh(link.run(echo("a"))) == "a"


async def test_no_reply_in_the_second_half(sh: Shell, way: str, server: RedisServer | ExternalServer) -> None:
    """No answer in time: unknown, and the next command has a new connection and its own reply."""
    with FaultProxy("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        link = await sh(sh.queue(url=proxy.url).links.new(read_timeout=0.3))
        await sh(link.connect())
        proxy.on(command="ECHO", action=drop_reply())
        await sh(link.send(echo("a")))
        with pytest.raises(reliq.OutcomeUnknown):
            await sh(link.receive(echo("a")))
        assert not link.unread
        assert await sh(link.run(echo("b"))) == "b"
        await sh.close(link)


async def test_replies_in_pieces(sh: Shell, way: str, server: RedisServer | ExternalServer) -> None:
    """A reply that comes byte by byte, and one that is larger than what is read at once, is whole."""
    with FaultProxy("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        link = await sh(sh.queue(url=proxy.url).links.new())
        await sh(link.connect())
        rule = proxy.on(command="ECHO", action=trickle())
        assert await sh(link.run(echo("piecemeal"))) == "piecemeal"
        assert rule.hits == 1
        assert await sh(link.run(echo("x" * 300_000))) == "x" * 300_000
        await sh.close(link)


@pytest.mark.parametrize("error", [b"-LOADING not yet\r\n", b"-READONLY no\r\n", b"-BUSY a script\r\n"])
async def test_refusals(sh: Shell, way: str, server: RedisServer | ExternalServer, error: bytes) -> None:
    """Whatever redis-py makes of an error: certainly not executed, and the next command has its own reply."""
    with FaultProxy("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        link = await sh(sh.queue(url=proxy.url).links.new())
        await sh(link.connect())
        proxy.on(command="ECHO", action=reply_error(error))
        with pytest.raises(reliq.Unavailable, match=error[1:5].decode()):
            await sh(link.run(echo("a")))
        assert await sh(link.run(echo("b"))) == "b"
        await sh.close(link)
