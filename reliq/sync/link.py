"""One connection to Redis, explicit in everything, and what a round trip on it says about its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import redis
from redis.retry import Retry

from reliq import client
from reliq.client import Address
from reliq.core import outcome
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.topology import Ask, Node, Server, Topology
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable, WrongKeyType
from reliq.settings import Settings
from reliq.sync.wire import Wire, wire

#: A connection that has been idle for longer (seconds) is looked at before it is used, which costs no round trip.
_LOOK_AFTER: Final = 1.0
#: By the kind of a URL: what makes a connection of redis-py, not connected yet.
KINDS: Final[Mapping[str, Callable[..., Any]]] = {
    "redis": redis.Connection,
    "rediss": redis.SSLConnection,
    "unix": redis.UnixDomainSocketConnection,
}
_FAILURES: Final = (redis.exceptions.RedisError, OSError, EOFError)
_CLOSED: Final = redis.exceptions.ConnectionError("the connection was closed")


class Link:
    """One connection, used by one thread at a time. It reconnects by itself at the next command, to wherever the
    primary (of ``key``, in a Cluster) is then."""

    def __init__(
        self,
        address: Address,
        topology: Topology,
        *,
        read_timeout: float,
        name: str = "reliq",
        keys: Keys | None = None,
        revive: Callable[[], object] | None = None,
        settings: Settings,
    ) -> None:
        self._address, self._topology, self._keys, self._settings = address, topology, keys, settings
        self._options: dict[str, Any] = {"read_timeout": read_timeout, "retry": Retry, "name": name}
        self._connection: Any = None
        self._wire: Wire
        self._where = address.label
        self._revive = revive
        self._fresh_for = min(_LOOK_AFTER, settings.idle_check, settings.idle_timeout)
        #: When it had its last reply (time.monotonic), and when it is too old to go on.
        self.used_at = self._ends_at = time.monotonic()
        self._connected = False
        #: A command was sent whose reply has not been read: until then the connection is good for nothing else.
        self.unread = False
        self.key = keys.ready if keys else ""
        self.kinds = KINDS  # who tries faults puts others in their place
        self.node: Node | None = None
        self.server = Server()

    def connect(self) -> bool:
        """Make sure there is a connection; True if it is a new one. Raises Unavailable, AccessDenied, …

        One with an unread reply is left alone.
        """
        if self.unread:
            return False
        if self._connected:
            now = time.monotonic()
            is_fresh = now - self.used_at < self._fresh_for and now < self._ends_at
            if (is_fresh or self._is_good(now)) and not (self._topology.cluster and self._misled()):
                return False
            self.close()
        try:
            self._reach()
        except Unavailable:
            if self._revive is None:
                raise
            self._revive()  # the private server ends with its keeper, whoever ended that: start it again
            self._reach()
        return True

    def _is_good(self, now: float) -> bool:
        """Whether one that has rested, or is old, can be used on."""
        rested, settings = now - self.used_at, self._settings
        if now >= self._ends_at or rested >= settings.idle_timeout or self._stale():
            return False
        return rested < settings.idle_check or self._answers()

    def _answers(self) -> bool:
        """Whether somebody is there: rather asked with a PING that nobody misses than with what counts."""
        patience = self._options["read_timeout"]
        with suppress(*_FAILURES):
            self.unread = True  # should we be interrupted
            self._connection._sock.settimeout(min(self._settings.connect_timeout, patience))
            self._wire.send(self._wire.pack([("PING",)]))
            self._wire.read()  # a refusal is an answer too
            self._connection._sock.settimeout(patience)
            self.unread = False
        return not self.unread

    def _misled(self) -> bool:
        """In a Cluster: whether the slot that it is for is known to be elsewhere by now."""
        return self._topology.owner(self.key) not in (None, self.node)

    def _reach(self) -> None:
        """Drive the search for the primary to its end: a connection to it."""
        flow = self._topology.reach_g(self.key)
        try:
            step = next(flow)
            while True:
                try:
                    reply = self._ask(step) if isinstance(step, Ask) else self._open(step.node)
                except ReliqError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration:
            self._connected, self.used_at = True, time.monotonic()
            self._ends_at = client.end_of_age(self.used_at, self._settings.max_age)
        except BaseException:
            self.close()
            raise

    def _ask(self, step: Ask) -> Any:
        connection = KINDS[self._address.kind](**client.asking_kwargs(self._address, step.node, retry=Retry))
        try:
            connection.connect()
            connection.send_packed_command(connection.pack_command(*step.words), check_health=False)
            return connection.read_response()
        except _FAILURES as error:
            raise client.failure(error, step.words[0].lower(), str(step.node), sent=False) from error
        finally:
            connection.disconnect()

    def _make(self, node: Node) -> Any:
        return self.kinds[self._address.kind](**client.connection_kwargs(self._address, node, **self._options))

    def _open(self, node: Node) -> Server:
        self.close()
        self._connection = connection = self._make(node)
        self._where = client.place(self._address, node)
        try:
            connection.connect()
            self._wire = wire(connection)
            questions = client.opening(self._address)
            self._wire.send(self._wire.pack(questions))
            replies = [self._allowed(self._wire.read()) for _ in questions]
        except _FAILURES as error:
            raise client.failure(error, "connect", self._where, sent=False) from error
        client.check_greeting(replies, self._address, self._where)
        self.server, self.node = client.read_server(replies, self._where), node
        client.check_keys(self._keys, self.server)
        return self.server

    @staticmethod
    def _allowed(reply: Any) -> Any:
        """A reply that an ACL may forbid: None then."""
        if isinstance(reply, redis.exceptions.NoPermissionError):
            return None
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _stale(self) -> bool:
        """Data (or an end) that nobody asked for: the connection is of no use any more."""
        try:
            return bool(self._connection.can_read(0))
        except Exception:  # noqa: BLE001 - whatever is wrong with it, a new one is right
            return True

    def run(self, command: Command, meanwhile: Callable[[], object] | None = None) -> Any:
        """One round trip. The error says whether it was executed: Refused, or OutcomeUnknown; Moved: not here.

        ``meanwhile``: what there is to do while Redis is at work.
        """
        if self.unread:
            self.close()  # somebody was interrupted before he read it: it is no reply to this command
        self.connect()
        self.send(command)
        if meanwhile is not None:
            meanwhile()
        return self.receive(command)

    def send(self, command: Command) -> None:
        """The first half of a round trip, behind ``connect``; its reply is ``unread`` until ``receive``, which has
        to come next. Raises Unavailable or UnsupportedServer if it was not executed, else OutcomeUnknown."""
        if command.after:
            client.check_needs(command, self.server, self._where)
        if not self._connected:
            raise client.failure(_CLOSED, _what(command), self._where, sent=False)
        packed = command.packed or self._wire.pack([command.words(), *command.after])
        self._write(packed, command, alone=not command.after)

    def receive(self, command: Command) -> Any:
        """The second half: the reply to what was sent, with the errors of ``run``."""
        if not self.unread:  # closed since
            raise client.failure(_CLOSED, _what(command), self._where, sent=True)
        replies = self._read(1 + len(command.after), command)
        if isinstance(replies[0], Exception):
            replies = self._again(replies, command)
        return self._understood(command, replies if command.after else replies[0])

    def _again(self, replies: list[Any], command: Command) -> list[Any]:
        """The replies to the same, said so that it is understood, or where it was asked to be said; else raise."""
        node = None
        if isinstance(replies[0], redis.exceptions.NoScriptError):
            replies = self._exchange([command.source_words(), *command.after], command)
        elif (node := client.asked_to(replies[0], self.node)) is not None:
            replies = self._aside(node, [command.anew_words(), *command.after], command)
        if isinstance(replies[0], Exception):
            raise self._failure(replies[0], command, node) from replies[0]
        return replies

    def _understood(self, command: Command, reply: Any) -> Any:
        """What the command makes of its reply. After nonsense the connection is of no use any more."""
        try:
            return command.read(reply)
        except OutcomeUnknown:
            self.close()
            raise

    def _with_key(self, failure: WrongKeyType, command: Command) -> WrongKeyType:
        """Which key it is, says one round trip more: without it somebody would have to search."""
        try:
            types = self._exchange([("TYPE", key) for key in command.keys], command)
        except ReliqError:
            return failure
        return outcome.with_key(failure, command.keys, types)

    def _failure(self, reply: Exception, command: Command, asked: Node | None = None) -> ReliqError:
        """What an error reply means; if the primary is elsewhere, the connection is of no use any more."""
        where = client.place(self._address, asked) if asked else self._where
        failure = client.failure(reply, _what(command), where, sent=True)
        if isinstance(failure, WrongKeyType) and self._connected and not asked:
            failure = self._with_key(failure, command)
        failure.__cause__ = reply
        if client.is_elsewhere(reply, self._topology, self.node):
            self.close()
        return failure

    def _aside(self, node: Node, lines: Sequence[Sequence[Any]], command: Command) -> list[Any]:
        """Where an ASK sends us, for this one time: the slot is on its way to that node."""
        connection, where, sent = self._make(node), client.place(self._address, node), False
        try:
            connection.connect()
            there = wire(connection)
            there.send(there.pack([("ASKING",), *lines]))
            sent = True
            return [there.read() for _ in range(1 + len(lines))][1:]
        except _FAILURES as error:
            raise client.failure(error, _what(command), where, sent=sent) from error
        finally:
            connection.disconnect()

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands (of one slot) in one round trip; an error reply stands in the place of its result."""
        if self.unread:
            self.close()
        self.connect()
        replies = self._exchange([c.words() for c in commands], commands[0])
        if not any(isinstance(reply, Exception) for reply in replies):
            return [self._understood(c, r) for c, r in zip(commands, replies, strict=True)]
        again = [i for i, r in enumerate(replies) if isinstance(r, redis.exceptions.NoScriptError)]
        if again:
            repeated = self._exchange([commands[i].source_words() for i in again], commands[0])
            for i, reply in zip(again, repeated, strict=True):
                replies[i] = reply
        asked = [client.asked_to(reply, self.node) for reply in replies]
        for i, node in enumerate(asked):
            if node is not None:
                [replies[i]] = self._aside(node, [commands[i].anew_words()], commands[i])
        return [
            self._failure(r, c, node) if isinstance(r, Exception) else self._understood(c, r)
            for c, r, node in zip(commands, replies, asked, strict=True)
        ]

    def _exchange(self, lines: Sequence[Sequence[Any]], command: Command) -> list[Any]:
        self._write(self._wire.pack(lines), command, alone=len(lines) == 1)
        return self._read(len(lines), command)

    def _write(self, packed: Any, command: Command, *, alone: bool) -> None:
        self.unread = True
        try:
            self._wire.send(packed)
        except _FAILURES as error:
            self._lost()  # of several commands the first may have gone out whole
            raise client.failure(error, _what(command), self._where, sent=not alone) from error
        except BaseException:
            self.close()
            raise

    def _read(self, count: int, command: Command) -> list[Any]:
        try:
            replies = [self._wire.read() for _ in range(count)]
        except _FAILURES as error:
            self._lost()
            raise client.failure(error, _what(command), self._where, sent=True) from error
        except BaseException:
            self.close()  # interrupted between question and answer: never read that answer as another's
            raise
        self.unread, self.used_at = False, time.monotonic()
        return replies

    def _lost(self) -> None:
        """The connection broke: its node may be gone, so in a Cluster others are asked first."""
        self._topology.doubt(self.node)
        self.close()

    def close(self) -> None:
        """End the connection; the next command makes a new one."""
        self._connected = self.unread = False
        if self._connection is not None:
            self._connection.disconnect()


def _what(command: Command) -> str:
    return f"queue {command.queue!r}: {command.name}" if command.queue else command.name
