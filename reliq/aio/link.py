"""One connection to Redis, explicit in everything, and what a round trip on it says about its outcome.

It belongs to the event loop that made it. A forked child never touches those of its parent.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import redis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry

from reliq import client
from reliq.client import Address
from reliq.core import outcome
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.topology import Ask, Node, Server, Topology
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable, WrongKeyType
from reliq.settings import Settings

if sys.version_info >= (3, 11, 3):
    from asyncio import timeout as time_limit  # type: ignore[attr-defined, unused-ignore]  # mypy takes 3.10
else:  # redis-py brings it for these versions
    from async_timeout import timeout as time_limit  # type: ignore[import-not-found, unused-ignore]

__all__ = ["Link", "time_limit"]

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
        settings: Settings,
    ) -> None:
        self._address, self._topology, self._keys, self._settings = address, topology, keys, settings
        self._options: dict[str, Any] = {"read_timeout": read_timeout, "retry": Retry, "name": name}
        self._connection: Any = None
        self._read_timeout = read_timeout
        self._where = address.label
        self._revive = revive
        #: When it was last used (time.monotonic), and when it is too old to go on.
        self.used_at = self._ends_at = time.monotonic()
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
            if await self._is_good() and not (self._topology.cluster and self._misled()):
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

    async def _is_good(self) -> bool:
        """Whether it can be used on, as it has rested, and is old."""
        now, settings = time.monotonic(), self._settings
        rested, self.used_at = now - self.used_at, now
        if now >= self._ends_at or rested >= settings.idle_timeout or await self._stale():
            return False
        return rested < settings.idle_check or await self._answers()

    async def _answers(self) -> bool:
        """Whether somebody is there: rather asked with a PING that nobody misses than with what counts."""
        with suppress(*_FAILURES):
            self.unread = True  # should we be interrupted
            async with time_limit(min(self._settings.connect_timeout, self._read_timeout)):
                await self._connection.send_packed_command(
                    self._connection.pack_command("PING"), check_health=False
                )
                await self._read_all(self._connection, 1)  # a refusal is an answer too
            self.unread = False
        return not self.unread

    def _misled(self) -> bool:
        """In a Cluster: whether the slot that it is for is known to be elsewhere by now."""
        return self._topology.owner(self.key) not in (None, self.node)

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
            self._connected, self.used_at = True, time.monotonic()
            self._ends_at = client.end_of_age(self.used_at, self._settings.max_age)
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
        packed = command.packed or client.pack(self._connection, [command.words(), *command.after])
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
        await self._write(client.pack(self._connection, lines), command)
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
    """As the blocking shell has it. Before Python 3.11 the timeout of asyncio is no TimeoutError, and it has no
    text; of a connection that fails asyncio says where to, and not why."""
    if isinstance(error, asyncio.TimeoutError):
        return redis.exceptions.TimeoutError("timeout")
    reason = error.__cause__ or error.__context__
    if isinstance(reason, OSError) and reason.errno and "Connect call failed" in str(reason):
        return redis.exceptions.ConnectionError(os.strerror(reason.errno))
    return error


def _what(command: Command) -> str:
    return f"queue {command.queue!r}: {command.name}" if command.queue else command.name
