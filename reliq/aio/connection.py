"""The connections of a queue, and the driver that runs commands and flows on them.

Connections belong to the event loop that made them: each loop has pools of its own, which close themselves
when their loop ends in good order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import tenacity

from reliq import client
from reliq.aio.link import Link
from reliq.aio.pool import Pool
from reliq.client import Address
from reliq.core.command import Command, Flow
from reliq.core.keys import Keys
from reliq.core.outcome import Moved
from reliq.core.topology import HOPS, Node, Server, Topology
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable
from reliq.settings import Settings

T = TypeVar("T")
#: So many connections on which somebody has waited for a result are kept for the next who does.
_SPARE: Final = 4


class _Pools:
    """The pools of one event loop: one for each node of a Cluster, else one."""

    def __init__(self) -> None:
        self.by_node: dict[Node | None, Pool] = {}
        self.opening = asyncio.Lock()
        self.spare: deque[Link] = deque()

    async def watch(self) -> AsyncGenerator[None]:
        """A generator that ends with its event loop (asyncio.run ends those that are open), or with us."""
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close those that are not in use."""
        for pool in list(self.by_node.values()):
            await pool.aclose()
        while self.spare:
            await self.spare.pop().aclose()


class Links:
    """The connections of one Queue, for all tasks of an event loop; in a Cluster a pool of them for each node.

    ``find`` says which Redis and how, at the first use. ``keys``: those of the queue, whose slot is where commands
    without a key go.
    """

    def __init__(self, find: Callable[[], Awaitable[Settings]], *, keys: Keys | None = None) -> None:
        self._find = find
        self._keys = keys
        self._settings = Settings()
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
            settings = await self._find()
            if self._address is None:  # nobody else has found out meanwhile
                address = settings.address()
                self._settings, self._topology, self._address = settings, address.topology(), address
        return self._address

    async def _how(self) -> Settings:
        """What was found with the address; another one who shares these connections may have made them."""
        await self.address()
        return self._settings

    async def server(self) -> Server:
        """What the connection used last says about its server; in a Cluster, that of the queue's slot."""
        async with self._link("") as link:
            await link.connect()
            return link.server

    async def new(self, *, read_timeout: float | None = None, name: str = "reliq") -> Link:
        """A connection of its own for the caller, who closes it."""
        address = await self.address()
        return Link(
            address,
            self._topology,
            read_timeout=read_timeout or self._settings.timeout,
            name=name,
            keys=self._keys,
            revive=self._find if address.kind == "unix" else None,
            settings=self._settings,
        )

    async def waiting(self, *, read_timeout: float) -> Link:
        """A connection to wait on, for as long as it takes; ``waited`` takes it back."""
        try:
            link = (await self._mine()).spare.pop()
        except IndexError:
            link = await self.new(read_timeout=read_timeout, name="reliq-result")
        link.key = self._keys.ready if self._keys else ""
        return link

    async def waited(self, link: Link) -> None:
        """It is of no use to who had it any more, whatever is under way on it."""
        spare = (await self._mine()).spare
        if link.unread or len(spare) >= _SPARE:
            await link.aclose()
        else:
            spare.append(link)

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
        """A connection for this key, for as long as it is used."""
        key = key or (self._keys.ready if self._keys else "")
        node = self._topology.owner(key)
        pools = await self._mine()
        pool = pools.by_node.get(node) or await self._pool(pools, node, key)
        link = await pool.take() or await pool.add(self.new)
        link.key = key
        try:
            yield link
        finally:
            pool.give_back(link)

    async def _pool(self, pools: _Pools, node: Node | None, key: str) -> Pool:
        address = await self.address()
        async with pools.opening:
            if node not in pools.by_node:
                pool = Pool(self._settings, client.place(address, node) if node else address.label)
                await pool.warm(self.new, key)
                pools.by_node[node] = pool
            return pools.by_node[node]

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
            if not (command.idempotent and self._reached and (await self._how()).retries != 0):
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
            return await tenacity.AsyncRetrying(**client.insistence(await self._how()))(once)
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
