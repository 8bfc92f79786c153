"""Connections to Redis, explicit in everything, and the driver that runs commands and flows on them.

Connections belong to the event loop that made them: each loop has a pool of its own, which closes itself
when its loop ends in good order. A forked child never touches those of its parent.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import redis
import tenacity
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry

from reliq import client
from reliq.client import Address, Server
from reliq.core.command import Command, Flow
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable

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


class Link:
    """One connection, used by one task at a time. It reconnects by itself at the next command.

    A task that is cancelled while it waits for a reply ends the connection with it, so that the reply can
    never be taken for another's.
    """

    def __init__(
        self,
        address: Address,
        *,
        read_timeout: float,
        name: str = "reliq",
        revive: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        kwargs = client.connection_kwargs(address, read_timeout=read_timeout, retry=Retry, name=name)
        # The time limit is ours, around sending and reading. redis-py's own puts asyncio.wait_for around
        # each send, which swallows a cancellation now and then before Python 3.12.
        self._make: Callable[[], Any] = lambda: _KINDS[address.kind](**{**kwargs, "socket_timeout": None})
        self._connection = self._make()
        self._read_timeout = read_timeout
        self._where = address.label
        self._revive = revive
        self._connected = False
        self.server = Server()
        _LINKS.add(self)

    async def connect(self) -> bool:
        """Make sure there is a connection; True if it is a new one. Raises Unavailable, AccessDenied, …"""
        if self._connected and self._connection.is_connected:
            if not await self._stale():
                return False
            await self._drop()
        try:
            await self._open()
        except Unavailable:
            if self._revive is None:
                raise
            await self._revive()  # the private server ends with its keeper, whoever ended that: start it again
            await self._open()
        return True

    async def _open(self) -> None:
        connection = self._connection
        try:
            async with time_limit(self._read_timeout):
                await connection.connect()
                await connection.send_packed_command(
                    connection.pack_commands([("INFO", "server"), ("CLIENT", "ID")]), check_health=False
                )
                info, client_id = [await self._maybe(connection) for _ in range(2)]
            self.server = client.read_server(info, client_id or 0, self._where)
        except _FAILURES as error:
            await self._drop()
            raise client.failure(_plain(error), "connect", self._where, sent=False) from error
        except BaseException:
            await self._drop()
            raise
        self._connected = True

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

    async def run(self, command: Command) -> Any:
        """One round trip. The error says whether it was executed: Refused, or OutcomeUnknown."""
        result = (await self.pipeline((command,)))[0]
        if isinstance(result, ReliqError):
            raise result
        return result

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip; an error reply stands in the place of its result."""
        await self.connect()
        replies = await self._exchange([c.words() for c in commands], commands)
        again = [i for i, r in enumerate(replies) if isinstance(r, redis.exceptions.NoScriptError)]
        if again:
            repeated = await self._exchange([commands[i].source_words() for i in again], commands)
            for i, reply in zip(again, repeated, strict=True):
                replies[i] = reply
        return [self._result(c, r) for c, r in zip(commands, replies, strict=True)]

    def _result(self, command: Command, reply: Any) -> Any:
        if not isinstance(reply, Exception):
            return command.read(reply)
        failure = client.failure(reply, _what(command), self._where, sent=True)
        failure.__cause__ = reply
        return failure

    async def _exchange(self, lines: Sequence[Sequence[Any]], commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        packed = connection.pack_commands(lines)
        replies: list[Any] = []
        try:
            async with time_limit(self._read_timeout):
                # A stream that fails in drain() may have sent all: from here on the outcome is unknown.
                await connection.send_packed_command(packed, check_health=False)
                for _ in lines:
                    try:
                        replies.append(await connection.read_response())
                    except redis.exceptions.ResponseError as error:
                        replies.append(error)
        except _FAILURES as error:
            await self._drop()
            raise client.failure(_plain(error), _what(commands[0]), self._where, sent=True) from error
        except BaseException:
            await self._drop()  # interrupted between question and answer: never read it as another's
            raise
        return replies

    async def _drop(self) -> None:
        """End the connection without waiting for anything, so that it can be done while being cancelled."""
        self._connected = False
        with suppress(*_FAILURES):
            await self._connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """End the connection; the next command makes a new one."""
        self._connected = False
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
        self._connection, self._connected = self._make(), False


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

    async def watch(self) -> AsyncGenerator[None]:
        """A generator that ends with its event loop (asyncio.run ends those that are open), or with us."""
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close those that are not in use."""
        idle = [self._links.get_nowait() for _ in range(self._links.qsize())]
        for link in idle:
            if link is not None:
                await link.aclose()
            self.give_back(None)


class Links:
    """The connections of one Queue, kept for reuse; at most 16 per event loop, the rest waits in turn."""

    def __init__(self, find_url: Callable[[], Awaitable[str]], *, timeout: float) -> None:
        self._find_url = find_url
        self._timeout = timeout
        self._address: Address | None = None
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Pool, Any]] = WeakKeyDictionary()
        self._reached = False

    async def address(self) -> Address:
        """Where Redis is; the first use finds out (and may start the private one)."""
        if self._address is None:
            self._address = client.parse(await self._find_url())
        return self._address

    async def server(self) -> Server:
        """What the connection used last says about its server."""
        pool = await self._pool()
        link = await pool.take()
        try:
            link = link or await self.new()
            await link.connect()
            return link.server
        finally:
            pool.give_back(link)

    async def new(self, *, read_timeout: float | None = None, name: str = "reliq") -> Link:
        """A connection of its own for the caller, who closes it."""
        address = await self.address()
        revive = self._find_url if address.kind == "unix" else None
        return Link(address, read_timeout=read_timeout or self._timeout, name=name, revive=revive)

    async def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        found = self._pools.get(loop)
        if found is None:
            pool = _Pool()
            watch = pool.watch()
            self._pools[loop] = (pool, watch)
            await watch.__anext__()
            return pool
        return found[0]

    async def run(self, command: Command) -> Any:
        """Run one command, once."""
        result = (await self.pipeline((command,)))[0]
        if isinstance(result, ReliqError):
            raise result
        return result

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Run several commands in one round trip, once; errors stand in the place of results."""
        pool = await self._pool()
        link = await pool.take()
        try:
            link = link or await self.new()
            return await link.pipeline(commands)
        finally:
            pool.give_back(link)

    async def insist(self, command: Command) -> Any:
        """Run a command that is safe to repeat until it is answered, for at most ``timeout`` seconds.

        Raises OutcomeUnknown if any try may have been executed, else the last refusal. A server that was
        never reached fails at once.
        """
        uncertain = False

        async def once() -> Any:
            nonlocal uncertain
            try:
                reply = await self.run(command)
            except OutcomeUnknown:
                uncertain = self._reached = True
                raise
            self._reached = True
            return reply

        try:
            return await once()
        except (Unavailable, OutcomeUnknown) as error:
            if not (command.idempotent and self._reached):
                raise
            first = error
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
