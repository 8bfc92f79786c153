"""The queue: where producers put, and what consumers, workers and reapers are made from."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload
from weakref import WeakKeyDictionary, proxy

from reliq import defaults, embedded, model
from reliq.aio.connection import Links
from reliq.aio.puts import Puts
from reliq.core import flows, ops
from reliq.core.codec import Codec
from reliq.core.flows import Sizes
from reliq.core.retry import Retry
from reliq.errors import OutcomeUnknown, PutManyError, Refused, Unavailable
from reliq.model import Receipt

if TYPE_CHECKING:
    from reliq.ack import Handler, P, R
    from reliq.aio.consumer import Consumer
    from reliq.core.explain import Explanation


class Queue:
    """A reliable queue on a Redis list. Making one does no I/O; the first operation connects.

    ``url``: redis://, rediss:// or unix://; without one ``$RELIQ_URL``, else a private embedded Redis. Of a
    Cluster one node is enough, or several: redis://h1:7000,h2:7001/0. Behind Sentinels, with the master's name:
    redis+sentinel://[user:password@]h1:26379,h2:26379/mymaster/0 (the sentinels' own password, if they have one,
    as ?sentinel_password=…). Both are followed through failovers.
    ``key``: adopt an existing list of this name. ``codec``: "msgpack" (default), "json", "bytes" or an
    object with name, encode, decode; raw elements of foreign producers are read by it, as JSON if none
    is named. ``prefix``: of all keys, default ``$RELIQ_PREFIX`` or ``reliq``. ``lease``, ``block``,
    ``timeout``: seconds, see the table of defaults. ``retry``: the policy for failing handlers.
    Tasks may share a queue. On another event loop, and after a fork, it opens connections of its own.
    """

    def __init__(
        self,
        name: str,
        url: str | None = None,
        *,
        key: str | None = None,
        codec: str | Codec | None = None,
        prefix: str | None = None,
        lease: float = defaults.LEASE,
        block: float = defaults.BLOCK,
        timeout: float = defaults.TIMEOUT,
        retry: Retry | None = None,
        max_losses: int = defaults.MAX_LOSSES,
        max_body: int = defaults.MAX_BODY,
    ) -> None:
        self.options = model.options(
            name,
            key=key,
            codec=codec,
            prefix=prefix,
            lease=lease,
            block=block,
            timeout=timeout,
            retry=retry,
            max_losses=max_losses,
            max_body=max_body,
        )
        self._open(url)

    def _open(self, url: str | None) -> None:
        self.url = url
        self.links = Links(lambda: _find(url), timeout=self.options.timeout, keys=self.options.keys)
        self._producers = model.Producers(self.options.keys)
        self._registered = False
        self._puts: WeakKeyDictionary[asyncio.AbstractEventLoop, Puts] = WeakKeyDictionary()

    @classmethod
    def of(cls, options: model.QueueOptions, url: str | None) -> Queue:
        """A queue of settings that were checked before."""
        queue = cls.__new__(cls)
        queue.options = options
        queue._open(url)
        return queue

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.options.name

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    # -- produce ----------------------------------------------------------------------------------------

    async def put(
        self,
        body: Any,
        *,
        id: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        replicas: int = 0,
        fsync: bool = False,
    ) -> Receipt:
        """Accept one message; returns its id (32 hex digits; a str that is a Receipt). One round trip.

        Tasks that put at once share round trips: see ``reliq.aio.puts``.
        ``delay`` seconds or an aware datetime ``at`` say when it becomes ready, by the server's clock.
        ``id``: a text of your own; the same id within an hour adds no second copy, from any process.
        ``replicas``: so many replicas have to confirm it (WAIT); ``fsync``: the primary has to have it on disk
        (WAITAOF, Redis 7.2 or later); what was confirmed stands in the receipt, a shortfall is OutcomeUnknown.
        Raises Refused (QueueFull, Unavailable, …: it is not in), or OutcomeUnknown (it may be; the error
        can be given to ``repeat``), BodyError, ConfigError.
        """
        raw_id, element = self.options.element(body, id)
        due, confirm = model.due(delay, at), model.confirm(replicas, fsync, self.options.timeout)
        if due is ops.NOW and confirm is ops.NOTHING and id is None:
            return await self._gathered().put(raw_id, element)
        [receipt] = await self._send([raw_id], [element], due, self.options.marker(id), confirm)
        return receipt

    def _gathered(self) -> Puts:
        """Those of this event loop."""
        loop = asyncio.get_running_loop()
        found = self._puts.get(loop)
        if found is None:
            queue = proxy(self)  # it ends with whoever holds it, not with the next collection of cycles
            found = Puts(lambda ids, elements: queue._send(ids, elements, ops.NOW, "", ops.NOTHING))
            self._puts[loop] = found
        return found

    async def put_many(
        self,
        bodies: Iterable[Any],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        replicas: int = 0,
        fsync: bool = False,
    ) -> list[str]:
        """Accept many messages, in order; returns their ids. One round trip per 1,000 or 256 kB, each confirmed
        as ``replicas`` and ``fsync`` say. The ids are receipts, as that of ``put``.

        Raises PutManyError, which lists what was accepted, refused and unknown, if it goes through in part.
        """
        due, confirm = model.due(delay, at), model.confirm(replicas, fsync, self.options.timeout)
        receipts: list[str] = []
        ids, elements = self.options.elements(bodies)
        done = 0
        for chunk in ops.chunks(elements):
            part = ids[done : done + len(chunk)]
            try:
                receipts += await self._send(part, chunk, due, "", confirm)
            except (Refused, OutcomeUnknown) as error:
                raise model.partly(error, ids, done, len(part)) from error
            done += len(chunk)
        return receipts

    async def _send(
        self, ids: list[bytes], elements: list[bytes], due: ops.Due, marker: str, confirm: ops.Confirm
    ) -> list[Receipt]:
        if not self._registered:
            try:
                await self.links.insist(self.options.registration())
            except OutcomeUnknown as error:  # of the index entry: the put itself was not sent
                raise Unavailable(f"{error} Nothing was put: put again.") from error
            self._registered = True
        producer = self._producers.take()
        command = producer.put(elements, due, marker, confirm)
        receipts: list[Receipt] = []

        def name() -> None:
            receipts[:] = model.receipts(ids)

        try:
            reply = await self.links.insist(command, name)
        except Refused:
            self._producers.give_back(producer)
            raise
        except OutcomeUnknown as error:  # its series is frozen: the producer is not given back
            raise model.unknown_put(error, ids, command) from error
        receipts = model.confirmed(receipts, reply, command)  # a shortfall freezes the series too
        self._producers.give_back(producer)
        return receipts

    async def repeat(self, error: OutcomeUnknown | PutManyError) -> list[str]:
        """Send a put of unknown outcome once more; the server keeps one copy. Returns its ids. It waits for the
        same ``replicas`` and ``fsync`` again."""
        replay, ids = model.replay_of(error)
        try:
            reply = await self.links.insist(replay)
        except OutcomeUnknown as again:
            raise OutcomeUnknown(str(again), ids=ids, replay=replay) from again
        return [*model.confirmed(list(map(Receipt, ids)), reply, replay)]

    # -- consume ----------------------------------------------------------------------------------------

    def consumer(self, *, prefetch: int = 1, until_empty: bool = False) -> Consumer:
        """A claimer: ``async with q.consumer() as c: async for lease in c: …``. ``until_empty`` stops at empty."""
        from reliq.aio.consumer import Consumer

        return Consumer(self, prefetch=prefetch, until_empty=until_empty)

    @overload
    def ack(
        self, function: Callable[P, R], /, *, retry: Retry | None = None, timeout: float | None = None
    ) -> Handler[P, R]: ...

    @overload
    def ack(
        self, function: None = None, /, *, retry: Retry | None = None, timeout: float | None = None
    ) -> Callable[[Callable[P, R]], Handler[P, R]]: ...

    def ack(self, function: Any = None, /, *, retry: Retry | None = None, timeout: float | None = None) -> Any:
        """Make a handler of a function: ``@q.ack`` or ``@q.ack(retry=Retry(...), timeout=30)``.

        ``retry``: the policy for it (None: the queue's). ``timeout``: seconds that one attempt may take.
        TypeError if the function wants more than the body and the lease.
        """
        from reliq.ack import decorate

        return decorate(self, function, retry=retry, timeout=timeout)

    # -- ask --------------------------------------------------------------------------------------------

    async def size(self) -> Sizes:
        """How many messages are in each state: .ready .doing .later .dead"""
        return await self.links.flow(flows.sizes_g(self.options.keys))

    async def explain(self, id: str, *, deep: bool = True) -> Explanation:
        """Where a message is, why it is not further, what happens next, and what to do; it only reads.

        ``id``: as its put returned it, or the text of your own. A message of another queue under this prefix is
        found there. ``deep=False``: look only where the id says; else all is read before it is said to be nowhere,
        which takes a while in a queue of millions (a message in its place is found at once, however deep).
        """
        from reliq.core.explain import explain_g

        return await self.links.flow(explain_g(self.options.keys, id, deep=deep))

    async def revive(self, id: str) -> bool:
        """Put a dead letter back to ready, behind what waits, with all attempts before it; False if there is none
        of this id. Reads dead letters until it is found; ``reliq dead revive`` takes many at once."""
        from reliq.core.dead import revive_g

        return await self.links.flow(revive_g(self.options.keys, id, model.consumer_name()))

    async def ping(self) -> str:
        """Connect and check; returns the server's version. Raises what is wrong, in one line."""
        return (await self.links.server()).version

    async def aclose(self) -> None:
        """Close the idle connections of this event loop. The queue can still be used; it opens new ones."""
        await self.links.aclose()

    async def __aenter__(self) -> Queue:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _find(url: str | None) -> str:
    """Starting the private Redis takes a while and blocks; reading a setting does not."""
    if url is None and not os.environ.get("RELIQ_URL"):
        return await asyncio.to_thread(embedded.url_or_embedded, None)
    return embedded.url_or_embedded(url)
