"""Connections to Redis, explicit in everything, and the driver that runs commands and flows on them."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import redis
import tenacity
from redis.retry import Retry

from reliq import client
from reliq.client import Address, Server
from reliq.core.command import Command, Flow
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable

T = TypeVar("T")
#: A connection that has been idle for longer is looked at before it is used.
_CHECK_AFTER: Final = 1.0
_KINDS: Final = {
    "redis": redis.Connection,
    "rediss": redis.SSLConnection,
    "unix": redis.UnixDomainSocketConnection,
}


class Link:
    """One connection, used by one thread at a time. It reconnects by itself at the next command."""

    def __init__(
        self,
        address: Address,
        *,
        read_timeout: float,
        name: str = "reliq",
        revive: Callable[[], object] | None = None,
    ) -> None:
        kwargs = client.connection_kwargs(address, read_timeout=read_timeout, retry=Retry, name=name)
        self._connection: Any = _KINDS[address.kind](**kwargs)
        self._where = address.label
        self._revive = revive
        self._used_at = time.monotonic()
        self._connected = False
        self.server = Server()

    def connect(self) -> bool:
        """Make sure there is a connection; True if it is a new one. Raises Unavailable, AccessDenied, …"""
        if self._connected and self._connection.is_connected:
            if time.monotonic() - self._used_at < _CHECK_AFTER or not self._stale():
                return False
            self.close()
        try:
            self._open()
        except Unavailable:
            if self._revive is None:
                raise
            self._revive()  # the private server ends with its keeper, whoever ended that: start it again
            self._open()
        return True

    def _open(self) -> None:
        connection = self._connection
        try:
            connection.connect()
            connection.send_packed_command(
                connection.pack_commands([("INFO", "server"), ("CLIENT", "ID")]), check_health=False
            )
            info, client_id = (self._maybe(connection) for _ in range(2))
            self.server = client.read_server(info, client_id or 0, self._where)
        except (redis.exceptions.RedisError, OSError, EOFError) as error:
            self.close()
            raise client.failure(error, "connect", self._where, sent=False) from error
        except BaseException:
            self.close()
            raise
        self._connected, self._used_at = True, time.monotonic()

    @staticmethod
    def _maybe(connection: Any) -> Any:
        """A reply that an ACL may forbid: None then."""
        try:
            return connection.read_response()
        except redis.exceptions.NoPermissionError:
            return None

    def _stale(self) -> bool:
        """Data (or an end) that nobody asked for: the connection is of no use any more."""
        try:
            return bool(self._connection.can_read(0))
        except Exception:  # noqa: BLE001 - whatever is wrong with it, a new one is right
            return True

    def run(self, command: Command) -> Any:
        """One round trip. The error says whether it was executed: Refused, or OutcomeUnknown."""
        self.connect()
        reply = self._exchange(command.words(), command)
        if isinstance(reply, redis.exceptions.NoScriptError):
            reply = self._exchange(command.source_words(), command)
        if isinstance(reply, Exception):
            raise client.failure(reply, _what(command), self._where, sent=True) from reply
        return command.read(reply)

    def _exchange(self, words: Sequence[Any], command: Command) -> Any:
        connection, sent = self._connection, False
        try:
            connection.send_packed_command(connection.pack_command(*words), check_health=False)
            sent = True
            reply = connection.read_response()
        except redis.exceptions.ResponseError as error:
            reply = error
        except (redis.exceptions.RedisError, OSError, EOFError) as error:
            self.close()
            raise client.failure(error, _what(command), self._where, sent=sent) from error
        except BaseException:
            self.close()  # interrupted between question and answer: never read that answer as another's
            raise
        self._used_at = time.monotonic()
        return reply

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip; an error reply stands in the place of its result."""
        self.connect()
        replies = self._exchange_all([c.words() for c in commands], commands)
        again = [i for i, r in enumerate(replies) if isinstance(r, redis.exceptions.NoScriptError)]
        if again:
            repeated = self._exchange_all([commands[i].source_words() for i in again], commands)
            for i, reply in zip(again, repeated, strict=True):
                replies[i] = reply
        return [
            client.failure(r, _what(c), self._where, sent=True) if isinstance(r, Exception) else c.read(r)
            for c, r in zip(commands, replies, strict=True)
        ]

    def _exchange_all(self, lines: Sequence[Sequence[Any]], commands: Sequence[Command]) -> list[Any]:
        connection, sent = self._connection, False
        replies: list[Any] = []
        try:
            connection.send_packed_command(connection.pack_commands(lines), check_health=False)
            sent = True
            for _ in lines:
                try:
                    replies.append(connection.read_response())
                except redis.exceptions.ResponseError as error:
                    replies.append(error)
        except (redis.exceptions.RedisError, OSError, EOFError) as error:
            self.close()
            raise client.failure(error, _what(commands[0]), self._where, sent=sent) from error
        except BaseException:
            self.close()
            raise
        self._used_at = time.monotonic()
        return replies

    def close(self) -> None:
        """End the connection; the next command makes a new one."""
        self._connected = False
        self._connection.disconnect()


def _what(command: Command) -> str:
    return f"queue {command.queue!r}: {command.name}" if command.queue else command.name


class Links:
    """The connections of one Queue: as many as there are threads that use it at once, kept for reuse."""

    def __init__(self, find_url: Callable[[], str], *, timeout: float) -> None:
        self._find_url = find_url
        self._timeout = timeout
        self._address: Address | None = None
        self._idle: deque[Link] = deque()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._reached = False

    @property
    def address(self) -> Address:
        """Where Redis is; the first use finds out (and may start the private one)."""
        self._check_fork()
        with self._lock:
            if self._address is None:
                self._address = client.parse(self._find_url())
            return self._address

    def _check_fork(self) -> None:
        """A forked child must not share the sockets, nor a lock that a thread of its parent held."""
        if self._pid != os.getpid():
            self._lock, self._idle, self._pid = threading.Lock(), deque(), os.getpid()

    @property
    def server(self) -> Server:
        """What the connection used last says about its server."""
        link = self._take()
        try:
            link.connect()
            return link.server
        finally:
            self._idle.append(link)

    def new(self, *, read_timeout: float | None = None, name: str = "reliq") -> Link:
        """A connection of its own for the caller, who closes it."""
        address = self.address
        revive = self._find_url if address.kind == "unix" else None
        return Link(address, read_timeout=read_timeout or self._timeout, name=name, revive=revive)

    def _take(self) -> Link:
        self._check_fork()
        try:
            return self._idle.pop()
        except IndexError:
            return self.new()

    def run(self, command: Command) -> Any:
        """Run one command, once."""
        link = self._take()
        try:
            return link.run(command)
        finally:
            self._idle.append(link)

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Run several commands in one round trip, once; errors stand in the place of results."""
        link = self._take()
        try:
            return link.pipeline(commands)
        finally:
            self._idle.append(link)

    def insist(self, command: Command) -> Any:
        """Run a command that is safe to repeat until it is answered, for at most ``timeout`` seconds.

        Raises OutcomeUnknown if any try may have been executed, else the last refusal. A server that was
        never reached fails at once.
        """
        uncertain = False

        def once() -> Any:
            nonlocal uncertain
            try:
                reply = self.run(command)
            except OutcomeUnknown:
                uncertain = self._reached = True
                raise
            self._reached = True
            return reply

        try:
            return once()
        except (Unavailable, OutcomeUnknown) as error:
            if not (command.idempotent and self._reached):
                raise
            first = error
        try:
            return tenacity.Retrying(**client.insistence(self._timeout))(once)
        except ReliqError as error:
            if uncertain and not isinstance(error, OutcomeUnknown):
                raise OutcomeUnknown(f"{first} Then: {error}") from error
            raise

    def flow(self, flow: Flow[T]) -> T:
        """Drive a flow to its end; each step is repeated if that is safe."""
        try:
            step = next(flow)
            while True:
                try:
                    reply = self.pipeline(step) if isinstance(step, list) else self.insist(step)
                except ReliqError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def close(self) -> None:
        """Close the idle connections; the next use opens new ones."""
        self._check_fork()
        while self._idle:
            self._idle.pop().close()
