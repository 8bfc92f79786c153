"""Connections to Redis, explicit in everything, and the driver that runs commands and flows on them.

Connections belong to the event loop that made them: each loop has a pool of its own, which closes itself
when its loop ends in good order. A forked child never touches those of its parent.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import redis
import tenacity
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry

from reliq import client
from reliq.client import Address
from reliq.core import outcome
from reliq.core.command import Command, Flow
from reliq.core.keys import Keys
from reliq.core.outcome import Moved
from reliq.core.topology import HOPS, Ask, Node, Server, Topology
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable, WrongKeyType

if sys.version_info >= (3, 11, 3):
    from asyncio import timeout as time_limit  # type: ignore[attr-defined, unused-ignore]  # mypy takes 3.10
else:  # redis-py brings it for these versions
    from async_timeout import timeout as time_limit  # type: ignore[import-not-found, unused-ignore]

T = TypeVar("T")
#: Connections per event loop. Redis answers one command at a time, and a loop reads one reply at a time:
#: more would only queue elsewhere, while a thousand puts at once would open a thousand sockets.
_MOST: Final = 16
_KINDS: Final = {"redis": Connection, "rediss": SSLConnection, "unix": UnixDomainSocketConnection}
_FAILURES: Final = (redis.exceptions.RedisError, OSError, EOFError, asyncio.TimeoutError)
_CLOSED: Final = redis.exceptions.ConnectionError("the connection was closed")


class Link:
    """One connection, used by one task at a time. It reconnects by itself at the next command, to wherever the
    primary (of ``key``, in a Cluster) is then.

    A task that is cancelled while it waits for a reply ends the connection with it, so that the reply can
    never be taken for another's.
    """

    def __init__(
        self,
        address: Address,
        topology: Topology,
        *,
        read_timeout: float,
        name: str = "reliq",
        keys: Keys | None = None,
        revive: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._address, self._topology, self._keys = address, topology, keys
        self._options: dict[str, Any] = {"read_timeout": read_timeout, "retry": Retry, "name": name}
        self._connection: Any = None
        self._read_timeout = read_timeout
        self._where = address.label
        self._revive = revive
        self._connected = False
        #: A command was sent whose reply has not been read: until then the connection is good for nothing else.
        self.unread = False
        self.key = keys.ready if keys else ""
        self.node: Node | None = None
        self.server = Server()
        _LINKS.add(self)

    async def connect(self) -> bool:
        """Make sure there is a connection; True if it is a new one. Raises Unavailable, AccessDenied, …

        One with an unread reply is left alone.
        """
        if self.unread:
            return False
        if self._connected and self._connection.is_connected:
            if not await self._stale() and not self._misled():
                return False
            await self._drop()
        try:
            await self._reach()
        except Unavailable:
            if self._revive is None:
                raise
            await self._revive()  # the private server ends with its keeper, whoever ended that: start it again
            await self._reach()
        return True

    def _misled(self) -> bool:
        """In a Cluster: whether the slot that it is for is known to be elsewhere by now."""
        return self._topology.cluster and self._topology.owner(self.key) not in (None, self.node)

    async def _reach(self) -> None:
        """Drive the search for the primary to its end: a connection to it."""
        flow = self._topology.reach_g(self.key)
        try:
            step = next(flow)
            while True:
                try:
                    reply = await (self._ask(step) if isinstance(step, Ask) else self._open(step.node))
                except ReliqError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration:
            self._connected = True
        except BaseException:
            await self._drop()
            raise

    async def _ask(self, step: Ask) -> Any:
        kwargs = client.asking_kwargs(self._address, step.node, retry=Retry)
        connection = _make(self._address.kind, kwargs)
        try:
            async with time_limit(client.ASK_TIMEOUT):
                await connection.connect()
                await connection.send_packed_command(connection.pack_command(*step.words), check_health=False)
                return await connection.read_response()
        except _FAILURES as error:
            raise client.failure(_plain(error), step.words[0].lower(), str(step.node), sent=False) from error
        finally:
            await _end(connection)

    def _new(self, node: Node) -> Any:
        # The time limit is ours, around sending and reading. redis-py's own puts asyncio.wait_for around
        # each send, which swallows a cancellation now and then before Python 3.12.
        kwargs = client.connection_kwargs(self._address, node, **self._options)
        return _make(self._address.kind, {**kwargs, "socket_timeout": None})

    async def _open(self, node: Node) -> Server:
        await self._drop()
        self._connection = connection = self._new(node)
        self._where = client.place(self._address, node)
        try:
            async with time_limit(self._read_timeout):
                await connection.connect()
                questions = client.opening(self._address)
                await connection.send_packed_command(connection.pack_commands(questions), check_health=False)
                replies = [await self._maybe(connection) for _ in questions]
        except _FAILURES as error:
            raise client.failure(_plain(error), "connect", self._where, sent=False) from error
        client.check_greeting(replies, self._address, self._where)
        self.server, self.node = client.read_server(replies, self._where), node
        client.check_keys(self._keys, self.server)
        return self.server

    @staticmethod
    async def _maybe(connection: Any) -> Any:
        """A reply that an ACL may forbid: None then."""
        try:
            return await connection.read_response()
        except redis.exceptions.NoPermissionError:
            return None

    async def _stale(self) -> bool:
        """Data (or an end) that nobody asked for: the connection is of no use any more."""
        try:
            return bool(await self._connection.can_read())
        except Exception:  # noqa: BLE001 - whatever is wrong with it, a new one is right
            return True

    async def run(self, command: Command, meanwhile: Callable[[], object] | None = None) -> Any:
        """One round trip. The error says whether it was executed: Refused, or OutcomeUnknown; Moved: not here.

        ``meanwhile``: what there is to do while Redis is at work.
        """
        if self.unread:
            await self._drop()  # somebody was interrupted before he read it: it is no reply to this command
        await self.connect()
        await self.send(command)
        if meanwhile is not None:
            meanwhile()
        return await self.receive(command)

    async def send(self, command: Command) -> None:
        """The first half of a round trip, behind ``connect``; its reply is ``unread`` until ``receive``, which has
        to come next. Raises Unavailable or UnsupportedServer if it was not executed, else OutcomeUnknown."""
        if command.after:
            client.check_needs(command, self.server, self._where)
        if not self._connected:
            raise client.failure(_CLOSED, _what(command), self._where, sent=False)
        packed = command.packed or self._connection.pack_commands([command.words(), *command.after])
        await self._write(packed, command)

    async def receive(self, command: Command) -> Any:
        """The second half: the reply to what was sent, with the errors of ``run``."""
        if not self.unread:  # closed since
            raise client.failure(_CLOSED, _what(command), self._where, sent=True)
        replies, node = await self._read(1 + len(command.after), command), None
        if isinstance(replies[0], redis.exceptions.NoScriptError):
            replies = await self._exchange([command.source_words(), *command.after], command)
        elif (node := client.asked_to(replies[0], self.node)) is not None:
            replies = await self._aside(node, [command.anew_words(), *command.after], command)
        if isinstance(replies[0], Exception):
            raise await self._failure(replies[0], command, node) from replies[0]
        return await self._understood(command, replies if command.after else replies[0])

    async def _understood(self, command: Command, reply: Any) -> Any:
        """What the command makes of its reply. After nonsense the connection is of no use any more."""
        try:
            return command.read(reply)
        except OutcomeUnknown:
            await self._drop()
            raise

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands (of one slot) in one round trip; an error reply stands in the place of its result."""
        if self.unread:
            await self._drop()
        await self.connect()
        replies = await self._exchange([c.words() for c in commands], commands[0])
        again = [i for i, r in enumerate(replies) if isinstance(r, redis.exceptions.NoScriptError)]
        if again:
            repeated = await self._exchange([commands[i].source_words() for i in again], commands[0])
            for i, reply in zip(again, repeated, strict=True):
                replies[i] = reply
        asked = [client.asked_to(reply, self.node) for reply in replies]
        for i, node in enumerate(asked):
            if node is not None:
                [replies[i]] = await self._aside(node, [commands[i].anew_words()], commands[i])
        return [
            await self._failure(r, c, node) if isinstance(r, Exception) else await self._understood(c, r)
            for c, r, node in zip(commands, replies, asked, strict=True)
        ]

    async def _with_key(self, failure: WrongKeyType, command: Command) -> WrongKeyType:
        """Which key it is, says one round trip more: without it somebody would have to search."""
        try:
            types = await self._exchange([("TYPE", key) for key in command.keys], command)
        except ReliqError:
            return failure
        return outcome.with_key(failure, command.keys, types)

    async def _failure(self, reply: Exception, command: Command, asked: Node | None = None) -> ReliqError:
        """What an error reply means; if the primary is elsewhere, the connection is of no use any more."""
        where = client.place(self._address, asked) if asked else self._where
        failure = client.failure(reply, _what(command), where, sent=True)
        if isinstance(failure, WrongKeyType) and self._connected and not asked:
            failure = await self._with_key(failure, command)
        failure.__cause__ = reply
        if client.is_elsewhere(reply, self._topology, self.node):
            await self._drop()
        return failure

    async def _aside(self, node: Node, lines: Sequence[Sequence[Any]], command: Command) -> list[Any]:
        """Where an ASK sends us, for this one time: the slot is on its way to that node."""
        connection, where, sent = self._new(node), client.place(self._address, node), False
        try:
            async with time_limit(self._read_timeout):
                await connection.connect()
                sent = True
                packed = connection.pack_commands([("ASKING",), *lines])
                await connection.send_packed_command(packed, check_health=False)
                return (await self._read_all(connection, 1 + len(lines)))[1:]
        except _FAILURES as error:
            raise client.failure(_plain(error), _what(command), where, sent=sent) from error
        finally:
            await _end(connection)

    @staticmethod
    async def _read_all(connection: Any, count: int) -> list[Any]:
        replies: list[Any] = []
        for _ in range(count):
            try:
                replies.append(await connection.read_response())
            except redis.exceptions.ResponseError as error:
                replies.append(error)
        return replies

    async def _exchange(self, lines: Sequence[Sequence[Any]], command: Command) -> list[Any]:
        await self._write(self._connection.pack_commands(lines), command)
        return await self._read(len(lines), command)

    async def _write(self, packed: Any, command: Command) -> None:
        connection = self._connection
        if connection._writer is None or connection._writer.is_closing():
            # The other end is gone. To write on would raise almost anything (an AttributeError on Python 3.12.1).
            self._topology.doubt(self.node)
            await self._drop()
            raise client.failure(_CLOSED, _what(command), self._where, sent=False)
        self.unread = True
        async with self._answering(command):
            # A stream that fails in drain() may have sent all: the outcome is unknown.
            await connection.send_packed_command(packed, check_health=False)

    async def _read(self, count: int, command: Command) -> list[Any]:
        async with self._answering(command):
            replies = await self._read_all(self._connection, count)
        self.unread = False
        return replies

    @asynccontextmanager
    async def _answering(self, command: Command) -> AsyncIterator[None]:
        """Within the time limit; whatever goes wrong from here on: the outcome is unknown, the connection ends."""
        try:
            async with time_limit(self._read_timeout):
                yield
        except _FAILURES as error:
            self._topology.doubt(self.node)  # it may be gone: in a Cluster others are asked first
            await self._drop()
            raise client.failure(_plain(error), _what(command), self._where, sent=True) from error
        except BaseException:
            await self._drop()  # interrupted between question and answer: never read it as another's
            raise

    async def _drop(self) -> None:
        """End the connection without waiting for anything, so that it can be done while being cancelled."""
        self._connected = self.unread = False
        if self._connection is not None:
            await _end(self._connection)

    async def aclose(self) -> None:
        """End the connection; the next command makes a new one."""
        self._connected = self.unread = False
        if self._connection is not None:
            with suppress(*_FAILURES):
                await self._connection.disconnect()

    def _disown(self) -> None:
        """In a forked child: let go of the parent's socket.

        Closing the transport would take it out of the epoll set that the child shares with its parent, and
        the parent would wait for ever. So its descriptor is redirected, and the object is kept.
        """
        writer = getattr(self._connection, "_writer", None)
        sock = writer and writer.get_extra_info("socket")
        if sock:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, sock.fileno())
            os.close(nothing)
        _INHERITED.append(self._connection)
        self._connection, self._connected, self.unread = None, False, False


def _make(kind: str, kwargs: dict[str, Any]) -> Any:
    return _KINDS[kind](**kwargs)


async def _end(connection: Any) -> None:
    with suppress(*_FAILURES):
        await connection.disconnect(nowait=True)


_LINKS: Final[WeakSet[Link]] = WeakSet()
_INHERITED: Final[list[Any]] = []


def _disown_all() -> None:
    for link in list(_LINKS):
        link._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


def _plain(error: Exception) -> Exception:
    """Before Python 3.11 the timeout of asyncio is no TimeoutError; and it has no text."""
    return redis.exceptions.TimeoutError("timeout") if isinstance(error, asyncio.TimeoutError) else error


def _what(command: Command) -> str:
    return f"queue {command.queue!r}: {command.name}" if command.queue else command.name


class _Pool:
    """The connections of one event loop. The one used last is used next; None stands for one not made yet."""

    def __init__(self) -> None:
        self._links: asyncio.LifoQueue[Link | None] = asyncio.LifoQueue()
        for _ in range(_MOST):
            self._links.put_nowait(None)
        self.take = self._links.get
        self.give_back = self._links.put_nowait

    async def aclose(self) -> None:
        """Close those that are not in use."""
        idle = [self._links.get_nowait() for _ in range(self._links.qsize())]
        for link in idle:
            if link is not None:
                await link.aclose()
            self.give_back(None)


class _Pools:
    """The pools of one event loop: one for each node of a Cluster, else one."""

    def __init__(self) -> None:
        self._by_node: dict[Node | None, _Pool] = {}

    def at(self, node: Node | None) -> _Pool:
        return self._by_node.get(node) or self._by_node.setdefault(node, _Pool())

    async def watch(self) -> AsyncGenerator[None]:
        """A generator that ends with its event loop (asyncio.run ends those that are open), or with us."""
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close those that are not in use."""
        for pool in list(self._by_node.values()):
            await pool.aclose()


class Links:
    """The connections of one Queue, kept for reuse; at most 16 per event loop (and node of a Cluster), the rest
    waits in turn. ``keys``: those of the queue, whose slot is where commands without a key go."""

    def __init__(
        self, find_url: Callable[[], Awaitable[str]], *, timeout: float, keys: Keys | None = None
    ) -> None:
        self._find_url = find_url
        self._timeout = timeout
        self._keys = keys
        self._address: Address | None = None
        self._topology = Topology(())
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Pools, Any]] = WeakKeyDictionary()
        self._reached = False

    def of(self, keys: Keys) -> Links:
        """The same connections, for a queue with these keys."""
        links = copy(self)
        links._keys = keys
        return links

    async def address(self) -> Address:
        """Where Redis is; the first use finds out (and may start the private one)."""
        if self._address is None:
            address = client.parse(await self._find_url())
            if self._address is None:  # nobody else has found out meanwhile
                self._topology, self._address = address.topology(), address
        return self._address

    async def server(self) -> Server:
        """What the connection used last says about its server; in a Cluster, that of the queue's slot."""
        async with self._link("") as link:
            await link.connect()
            return link.server

    async def new(self, *, read_timeout: float | None = None, name: str = "reliq") -> Link:
        """A connection of its own for the caller, who closes it."""
        address = await self.address()
        revive = self._find_url if address.kind == "unix" else None
        timeout = read_timeout or self._timeout
        return Link(address, self._topology, read_timeout=timeout, name=name, keys=self._keys, revive=revive)

    async def _mine(self) -> _Pools:
        loop = asyncio.get_running_loop()
        found = self._pools.get(loop)
        if found is None:
            pools = _Pools()
            watch = pools.watch()
            self._pools[loop] = (pools, watch)
            await watch.__anext__()
            return pools
        return found[0]

    @asynccontextmanager
    async def _link(self, key: str) -> AsyncIterator[Link]:
        """An idle connection for this key, or a new one, or else the next that is given back."""
        key = key or (self._keys.ready if self._keys else "")
        pool = (await self._mine()).at(self._topology.owner(key))
        link = await pool.take()
        try:
            link = link or await self.new()
            link.key = key
            yield link
        finally:
            pool.give_back(link)

    async def run(self, command: Command, meanwhile: Callable[[], object] | None = None) -> Any:
        """Run one command, once; where MOVED says, if it says so."""
        for _ in range(HOPS):
            with suppress(Moved):
                async with self._link(command.routing_key) as link:
                    return await link.run(command, meanwhile)
        async with self._link(command.routing_key) as link:
            return await link.run(command, meanwhile)

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Run several commands in one round trip, once; errors stand in the place of results. In a Cluster they
        have to be of one slot."""
        key = next((c.routing_key for c in commands if c.routing_key), "")
        async with self._link(key) as link:
            results = await link.pipeline(commands)
        for i, command in enumerate(commands):
            if isinstance(results[i], Moved):
                try:
                    results[i] = await self.run(command)
                except ReliqError as error:
                    results[i] = error
        return results

    async def insist(self, command: Command, meanwhile: Callable[[], object] | None = None) -> Any:
        """Run a command that is safe to repeat until it is answered, for at most ``timeout`` seconds.

        ``meanwhile``: what there is to do while Redis is at work; it may be done several times.
        Raises OutcomeUnknown if any try may have been executed, else the last refusal. A server that was
        never reached fails at once.
        """
        try:
            reply = await self.run(command, meanwhile)
        except (Unavailable, OutcomeUnknown) as error:
            self._reached |= isinstance(error, OutcomeUnknown)
            if not (command.idempotent and self._reached):
                raise
            return await self._insist(command, meanwhile, error)
        self._reached = True
        return reply

    async def _insist(
        self, command: Command, meanwhile: Callable[[], object] | None, first: Unavailable | OutcomeUnknown
    ) -> Any:
        uncertain = isinstance(first, OutcomeUnknown)

        async def once() -> Any:
            nonlocal uncertain
            try:
                return await self.run(command, meanwhile)
            except OutcomeUnknown:
                uncertain = self._reached = True
                raise

        try:
            return await tenacity.AsyncRetrying(**client.insistence(self._timeout))(once)
        except ReliqError as error:
            if uncertain and not isinstance(error, OutcomeUnknown):
                raise OutcomeUnknown(f"{first} Then: {error}") from error
            raise

    async def flow(self, flow: Flow[T]) -> T:
        """Drive a flow to its end; each step is repeated if that is safe."""
        try:
            step = next(flow)
            while True:
                try:
                    reply = await (self.pipeline(step) if isinstance(step, list) else self.insist(step))
                except ReliqError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def aclose(self) -> None:
        """Close the idle connections of this event loop; the next use opens new ones."""
        found = self._pools.get(asyncio.get_running_loop())
        if found is not None:
            await found[0].aclose()
