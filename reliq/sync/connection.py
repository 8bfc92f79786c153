"""The connections of a queue, and the driver that runs commands and flows on them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, TypeVar

import tenacity

from reliq import client
from reliq.client import Address
from reliq.core.command import Command, Flow
from reliq.core.keys import Keys
from reliq.core.outcome import Moved
from reliq.core.topology import HOPS, Node, Server, Topology
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable
from reliq.identity import process
from reliq.settings import Settings
from reliq.sync.link import Link
from reliq.sync.pool import Pool

T = TypeVar("T")
#: So many connections on which somebody has waited for a result are kept for the next who does.
_SPARE: Final = 4


class Links:
    """The connections of one Queue, for all of its threads; in a Cluster a pool of them for each node.

    ``find`` says which Redis and how, at the first use. ``keys``: those of the queue, whose slot is where commands
    without a key go.
    """

    def __init__(self, find: Callable[[], Settings], *, keys: Keys | None = None) -> None:
        self._find = find
        self._keys = keys
        self._settings = Settings()
        self._address: Address | None = None
        self._topology = Topology(())
        self._pools: dict[Node | None, Pool] = {}
        self._spare: deque[Link] = deque()
        self._lock = threading.RLock()
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
                settings = self._find()
                address = settings.address()
                self._settings, self._topology, self._address = settings, address.topology(), address
            return self._address

    def _how(self) -> Settings:
        """What was found with the address; another one who shares these connections may have made them."""
        _ = self.address
        return self._settings

    def _check_fork(self) -> None:
        """A forked child must not share the sockets, nor a lock that a thread of its parent held."""
        if self._process is not process():
            self._lock, self._pools, self._process = threading.RLock(), {}, process()
            self._spare = deque()

    @property
    def server(self) -> Server:
        """What the connection used last says about its server; in a Cluster, that of the queue's slot."""
        pool, link = self._take("")
        try:
            link.connect()
            return link.server
        finally:
            pool.give_back(link)

    def new(self, *, read_timeout: float | None = None, name: str = "reliq") -> Link:
        """A connection of its own for the caller, who closes it."""
        address = self.address
        return Link(
            address,
            self._topology,
            read_timeout=read_timeout or self._settings.timeout,
            name=name,
            keys=self._keys,
            revive=self._find if address.kind == "unix" else None,
            settings=self._settings,
        )

    def waiting(self, *, read_timeout: float) -> Link:
        """A connection to wait on, for as long as it takes; ``waited`` takes it back."""
        self._check_fork()
        try:
            link = self._spare.pop()
        except IndexError:
            link = self.new(read_timeout=read_timeout, name="reliq-result")
        link.key = self._keys.ready if self._keys else ""
        return link

    def waited(self, link: Link) -> None:
        """It is of no use to who had it any more, whatever is under way on it."""
        if link.unread or len(self._spare) >= _SPARE:
            link.close()
        else:
            self._spare.append(link)

    def _take(self, key: str) -> tuple[Pool, Link]:
        """A connection for this key, and where it is to be given back."""
        self._check_fork()
        key = key or (self._keys.ready if self._keys else "")
        node = self._topology.owner(key) if self._topology.cluster else None
        pool = self._pools.get(node) or self._pool(node, key)
        link = pool.take() or pool.add(self.new)
        link.key = key
        return pool, link

    def _pool(self, node: Node | None, key: str) -> Pool:
        address = self.address
        with self._lock:
            if node not in self._pools:
                pool = Pool(self._settings, client.place(address, node) if node else address.label)
                pool.warm(self.new, key)
                self._pools[node] = pool
            return self._pools[node]

    def run(self, command: Command, meanwhile: Callable[[], object] | None = None) -> Any:
        """Run one command, once; where MOVED says, if it says so."""
        hops = HOPS
        while True:
            pool, link = self._take(command.routing_key)
            try:
                return link.run(command, meanwhile)
            except Moved:
                if not hops:
                    raise
                hops -= 1
            finally:
                pool.give_back(link)

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Run several commands in one round trip, once; errors stand in the place of results. In a Cluster they
        have to be of one slot."""
        key = next((c.routing_key for c in commands if c.routing_key), "")
        pool, link = self._take(key)
        try:
            results = link.pipeline(commands)
        finally:
            pool.give_back(link)
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
            if not (command.idempotent and self._reached and self._how().retries != 0):
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
            return tenacity.Retrying(**client.insistence(self._how()))(once)
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
        for pool in list(self._pools.values()):
            pool.close()
        while self._spare:
            self._spare.pop().close()
