"""Connections to Redis, explicit in everything, and the driver that runs commands and flows on them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Final, TypeVar

import redis
import tenacity
from redis.retry import Retry

from reliq import client
from reliq.client import Address
from reliq.core import outcome
from reliq.core.command import Command, Flow
from reliq.core.keys import Keys
from reliq.core.outcome import Moved
from reliq.core.topology import HOPS, Ask, Node, Server, Topology
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable, WrongKeyType
from reliq.model import process
from reliq.sync.wire import Wire, wire

T = TypeVar("T")
#: A connection that has been idle for longer is looked at before it is used.
_CHECK_AFTER: Final = 1.0
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
    ) -> None:
        self._address, self._topology, self._keys = address, topology, keys
        self._options: dict[str, Any] = {"read_timeout": read_timeout, "retry": Retry, "name": name}
        self._connection: Any = None
        self._wire: Wire
        self._where = address.label
        self._revive = revive
        self._used_at = time.monotonic()
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
            rested = time.monotonic() - self._used_at >= _CHECK_AFTER
            if not (rested and self._stale()) and not self._misled():
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

    def _misled(self) -> bool:
        """In a Cluster: whether the slot that it is for is known to be elsewhere by now."""
        return self._topology.cluster and self._topology.owner(self.key) not in (None, self.node)

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
            self._connected, self._used_at = True, time.monotonic()
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
        replies, node = self._read(1 + len(command.after), command), None
        if isinstance(replies[0], redis.exceptions.NoScriptError):
            replies = self._exchange([command.source_words(), *command.after], command)
        elif (node := client.asked_to(replies[0], self.node)) is not None:
            replies = self._aside(node, [command.anew_words(), *command.after], command)
        if isinstance(replies[0], Exception):
            raise self._failure(replies[0], command, node) from replies[0]
        return self._understood(command, replies if command.after else replies[0])

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
        self.unread, self._used_at = False, time.monotonic()
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


class Links:
    """The connections of one Queue: as many as there are threads that use it at once, kept for reuse; in a
    Cluster for each node. ``keys``: those of the queue, whose slot is where commands without a key go."""

    def __init__(self, find_url: Callable[[], str], *, timeout: float, keys: Keys | None = None) -> None:
        self._find_url = find_url
        self._timeout = timeout
        self._keys = keys
        self._address: Address | None = None
        self._topology = Topology(())
        self._idle: defaultdict[Node | None, deque[Link]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._process = process()
        self._reached = False

    def of(self, keys: Keys) -> Links:
        """The same connections, for a queue with these keys."""
        links = copy(self)
        links._keys = keys
        return links

    @property
    def address(self) -> Address:
        """Where Redis is; the first use finds out (and may start the private one)."""
        self._check_fork()
        with self._lock:
            if self._address is None:
                address = client.parse(self._find_url())
                self._topology, self._address = address.topology(), address
            return self._address

    def _check_fork(self) -> None:
        """A forked child must not share the sockets, nor a lock that a thread of its parent held."""
        if self._process is not process():
            self._lock, self._idle, self._process = threading.Lock(), defaultdict(deque), process()

    @property
    def server(self) -> Server:
        """What the connection used last says about its server; in a Cluster, that of the queue's slot."""
        with self._link("") as link:
            link.connect()
            return link.server

    def new(self, *, read_timeout: float | None = None, name: str = "reliq") -> Link:
        """A connection of its own for the caller, who closes it."""
        address = self.address
        revive = self._find_url if address.kind == "unix" else None
        timeout = read_timeout or self._timeout
        return Link(address, self._topology, read_timeout=timeout, name=name, keys=self._keys, revive=revive)

    def _take(self, key: str) -> Link:
        """An idle connection for this key, or a new one."""
        self._check_fork()
        key = key or (self._keys.ready if self._keys else "")
        try:
            link = self._idle[self._topology.owner(key)].pop()
        except IndexError:
            link = self.new()
        link.key = key
        return link

    def _give_back(self, link: Link) -> None:
        self._idle[link.node if self._topology.cluster else None].append(link)

    @contextmanager
    def _link(self, key: str) -> Iterator[Link]:
        link = self._take(key)
        try:
            yield link
        finally:
            self._give_back(link)

    def run(self, command: Command, meanwhile: Callable[[], object] | None = None) -> Any:
        """Run one command, once; where MOVED says, if it says so."""
        hops = HOPS
        while True:
            link = self._take(command.routing_key)
            try:
                return link.run(command, meanwhile)
            except Moved:
                if not hops:
                    raise
                hops -= 1
            finally:
                self._give_back(link)

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Run several commands in one round trip, once; errors stand in the place of results. In a Cluster they
        have to be of one slot."""
        key = next((c.routing_key for c in commands if c.routing_key), "")
        with self._link(key) as link:
            results = link.pipeline(commands)
        for i, command in enumerate(commands):
            if isinstance(results[i], Moved):
                try:
                    results[i] = self.run(command)
                except ReliqError as error:
                    results[i] = error
        return results

    def insist(self, command: Command, meanwhile: Callable[[], object] | None = None) -> Any:
        """Run a command that is safe to repeat until it is answered, for at most ``timeout`` seconds.

        ``meanwhile``: what there is to do while Redis is at work; it may be done several times.
        Raises OutcomeUnknown if any try may have been executed, else the last refusal. A server that was
        never reached fails at once.
        """
        try:
            reply = self.run(command, meanwhile)
        except (Unavailable, OutcomeUnknown) as error:
            self._reached |= isinstance(error, OutcomeUnknown)
            if not (command.idempotent and self._reached):
                raise
            return self._insist(command, meanwhile, error)
        self._reached = True
        return reply

    def _insist(
        self, command: Command, meanwhile: Callable[[], object] | None, first: Unavailable | OutcomeUnknown
    ) -> Any:
        uncertain = isinstance(first, OutcomeUnknown)

        def once() -> Any:
            nonlocal uncertain
            try:
                return self.run(command, meanwhile)
            except OutcomeUnknown:
                uncertain = self._reached = True
                raise

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
        for idle in list(self._idle.values()):
            while idle:
                idle.pop().close()
