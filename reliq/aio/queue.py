"""The queue: where producers put, and what consumers, workers and reapers are made from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload
from weakref import WeakKeyDictionary, proxy

from reliq import defaults, embedded, identity, putting
from reliq.aio.connection import Links
from reliq.aio.puts import Puts
from reliq.core import beside, flows, ops
from reliq.core.codec import Codec
from reliq.core.flows import Sizes
from reliq.core.retry import Retry
from reliq.errors import NewerSchema, OutcomeUnknown, PutManyError, Refused, ReliqError, Unavailable
from reliq.hooks import open_to
from reliq.logging import log
from reliq.receipts import Receipt, awaited, confirmed, receipts_of
from reliq.settings import Settings

if TYPE_CHECKING:
    from reliq.ack import Handler, P, R
    from reliq.aio.consumer import Consumer
    from reliq.aio.exclusive import Exclusive
    from reliq.core.explain import Explanation
    from reliq.core.gate import Gate
    from reliq.core.lanes import Group, Lane
    from reliq.core.routing import Rule
    from reliq.core.schedule import Schedule
    from reliq.core.unique import Unique
    from reliq.middleware import Middleware
    from reliq.model import QueueOptions


@open_to(put="put", put_many="put_many")
class Queue:
    """A reliable queue on a Redis list. Making one does no I/O; the first operation connects.

    ``url``: redis://, rediss:// or unix://; without one ``$RELIQ_URL``, else a private embedded Redis. Of a
    Cluster one node is enough, or several: redis://h1:7000,h2:7001/0. Behind Sentinels, with the master's name:
    redis+sentinel://[user:password@]h1:26379,h2:26379/mymaster/0 (the sentinels' own password, if they have one,
    as ?sentinel_password=…). Both are followed through failovers.
    ``settings``: the same and more, as a ``Settings`` or a mapping with its keys (from YAML or JSON); what it does
    not say, the environment does.
    ``key``: adopt an existing list of this name. ``codec``: "msgpack" (default), "json", "bytes", an object with
    name, encode, decode, or ``"module:attr"`` where that is; raw elements of foreign producers are read by it, as
    JSON if none is named. ``max_body``: the most bytes that an encoded body may have.
    ``prefix``: of all keys, default ``$RELIQ_PREFIX`` or ``reliq``. ``lease``, ``block``,
    ``timeout``: seconds, see the table of defaults. ``retry``: the policy for failing handlers.
    ``claim_check``: encoded bodies of more bytes lie beside the list, so that no settle sends them back.
    ``compress``: "zstd" for bodies of more than 1 KiB that get smaller by it (extra ``reliq[zstd]``), or None.
    ``trace``: of which share of the messages that are put here every step is written down, 0 to 1 (True: of all);
    default ``$RELIQ_TRACE`` or none.
    ``levels``: for ``put(priority=)``, True (high 6, normal 3, low 1) or names and weights; see ``level``.
    ``route``: of messages that were put without ``type=``, what tells their type: the name of a field of their
    bodies, or a function of the body. ``unrouted``: what becomes of one that no handler of its worker takes:
    "wait" (it goes back for 1 s, then 2, up to 10 min) or "bury" (it is dead-lettered as NO_HANDLER).
    ``middleware``: objects around every put and every handler, the outermost first: see ``reliq.middleware``.
    Tasks may share a queue. On another event loop, and after a fork, it opens connections of its own.
    """

    def __init__(
        self,
        name: str,
        url: str | None = None,
        *,
        settings: Settings | Mapping[str, Any] | None = None,
        key: str | None = None,
        codec: str | Codec | None = None,
        prefix: str | None = None,
        lease: float = defaults.LEASE,
        block: float | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        max_losses: int = defaults.MAX_LOSSES,
        max_body: int = defaults.MAX_BODY,
        claim_check: int = defaults.CLAIM_CHECK,
        compress: str | None = None,
        trace: float | None = None,
        levels: Mapping[str, int] | bool = False,
        route: Rule | str | None = None,
        unrouted: str = "wait",
        middleware: Sequence[Middleware] = (),
    ) -> None:
        from reliq.model import options

        here = Settings.chosen(url, settings)
        self.options = options(
            name,
            here,
            key=key,
            codec=codec,
            prefix=prefix,
            lease=lease,
            block=block,
            timeout=timeout,
            retry=retry,
            max_losses=max_losses,
            max_body=max_body,
            claim_check=claim_check,
            compress=compress,
            trace=trace,
            levels=levels,
            route=route,
            unrouted=unrouted,
            middleware=middleware,
            may_await=True,
        )
        self._open(here.with_times(self.options.block, self.options.timeout))

    def _open(self, settings: Settings) -> None:
        if self.options.middleware:
            from reliq.aio.through import through

            self.__class__ = through(type(self))
        self.settings = settings
        self.links = Links(lambda: _find(settings), keys=self.options.keys)
        self._producers = self.options.producers()
        self._registered = False
        self._levels: dict[str, Queue] = {}
        self._puts: WeakKeyDictionary[asyncio.AbstractEventLoop, Puts] = WeakKeyDictionary()

    @classmethod
    def of(cls, options: QueueOptions, settings: Settings) -> Queue:
        """A queue of settings that were checked before."""
        queue = cls.__new__(cls)
        queue.options = options
        queue._open(settings)
        return queue

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.options.name

    @property
    def url(self) -> str | None:
        """Where Redis is, with the password if it has one; None: the environment or the embedded one."""
        return self.settings.url

    def level(self, level: str) -> Queue:
        """The queue in which the messages of one level stand, with the same settings and connections: a queue like
        any other, named ``emails.high``; "normal" is this one itself. A worker for this one serves all of its
        levels; who consumes without one, asks for ``size``, cancels or revives, does that level by level.
        ConfigError if there is none of this name.
        """
        found = self._levels.get(level)
        if found is None:
            options = self.options.level(level)
            if options is self.options:
                return self
            made = Queue.of(options, self.settings)
            made.links = self.links.of(options.keys)
            found = self._levels.setdefault(level, made)
        return found

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    if not TYPE_CHECKING:  # for which every name would be one

        def __getattr__(self, name: str) -> Any:
            """Other queues call it so: the error says what it is called here."""
            from reliq.names import unknown

            raise unknown(self, name)

    # -- produce ----------------------------------------------------------------------------------------

    async def put(
        self,
        body: Any,
        *,
        id: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        retry: Retry | None = None,
        expires: float | datetime | None = None,
        unique: Unique | str | None = None,
        ordering_key: str | None = None,
        tenant: str | None = None,
        group: Group | str | None = None,
        result: float | bool = False,
        priority: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
        replicas: int = 0,
        fsync: bool = False,
    ) -> Receipt:
        """Accept one message; returns its id (32 hex digits; a str that is a Receipt). One round trip, or two for
        a body that lies beside the list.

        Tasks that put at once share round trips: see ``reliq.aio.puts``.
        ``delay`` seconds or an aware datetime ``at`` say when it becomes ready, by the server's clock.
        ``retry``: how often, when and until when this one is tried again, whatever the policy of its handler says
        of that: ``Retry(attempts=, wait=, max_age=)``.
        ``expires``: so many seconds from now, or at an aware datetime, no attempt begins any more: it is
        dead-lettered as EXPIRED (by the producer's clock and the server's).
        ``unique``: a key, of which no second message is put until this one is done, or a ``Unique``, which says
        until when, and what happens instead. The receipt tells: ``.added`` is False if nothing was put, and
        then it is the id of the message that is there.
        ``ordering_key``: messages with the same one are handled one at a time, in the order of their puts, over
        all workers; one that failed is tried again before the next begins.
        ``tenant``: whose it is, a text: while several have something ready, each gets as much as the others,
        however much it has put, and no more than ``limit(tenant_…)`` says.
        ``group``: a text, or a ``Group``: messages of one gather, and come together to a handler of batches
        (``@q.ack(batch=)``).
        ``id``: a text of your own; the same id within an hour adds no second copy, from any process.
        ``result``: so many seconds (True: an hour) what its handler returns is kept, once it is done;
        ``receipt.result()`` waits for that, and ``queue.result`` with the id alone, from any process.
        ``priority``: the name of one of the queue's ``levels``; ``unique`` and ``id`` count within that.
        ``type``: a word, by which a worker chooses among several handlers: that of ``ack(type=)``.
        ``headers``: texts by name that go with it, for middleware and handlers (``lease.headers``); 4 kB in all.
        ``replicas``: so many replicas have to confirm it (WAIT); ``fsync``: the primary has to have it on disk
        (WAITAOF, Redis 7.2 or later); what was confirmed stands in the receipt, a shortfall is OutcomeUnknown.
        Raises Refused (QueueFull, Unavailable, …: it is not in), or OutcomeUnknown (it may be; the error
        can be given to ``repeat``), BodyError, ConfigError.
        """
        to = self if priority is None else self.level(priority)
        only = putting.unique(unique)
        due, confirm = putting.due(delay, at), putting.confirm(replicas, fsync, to.options.timeout)
        lane = putting.lane(ordering_key, tenant, group, due)
        said = putting.extra(retry, expires, only, lane, type, result, headers)
        raw_id, element = to.options.element(body, id, said)
        if due is ops.NOW and confirm is ops.NOTHING and id is None and only is None and lane is None:
            receipt = await to._gathered().put(raw_id, element)
            return awaited(receipt, to) if result else receipt
        claim = None if only is None else only.only(to.options.keys, raw_id)
        [receipt] = await to._send([raw_id], [element], due, to.options.marker(id), confirm, claim, lane=lane)
        return awaited(receipt, to) if result else receipt

    def _gathered(self) -> Puts:
        """Those of this event loop."""
        loop = asyncio.get_running_loop()
        found = self._puts.get(loop)
        if found is None:
            queue = proxy(self)  # it ends with whoever holds it, not with the next collection of cycles
            found = Puts(
                lambda ids, elements: queue._send(ids, elements, ops.NOW, "", ops.NOTHING),
                self.options.most_at_once,
            )
            self._puts[loop] = found
        return found

    async def put_many(
        self,
        bodies: Iterable[Any],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        retry: Retry | None = None,
        expires: float | datetime | None = None,
        ordering_key: str | None = None,
        tenant: str | None = None,
        group: Group | str | None = None,
        result: float | bool = False,
        priority: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
        replicas: int = 0,
        fsync: bool = False,
    ) -> list[str]:
        """Accept many messages, in order; returns their ids. One round trip per 1,000 or 256 kB, each confirmed
        as ``replicas`` and ``fsync`` say; all of one ``priority``, ``ordering_key``, ``tenant``, ``group`` and
        ``type``, with ``result`` as in ``put``. The ids are receipts, as that of ``put``.

        Raises PutManyError, which lists what was accepted, refused and unknown, if it goes through in part.
        """
        to = self if priority is None else self.level(priority)
        due, confirm = putting.due(delay, at), putting.confirm(replicas, fsync, to.options.timeout)
        receipts: list[str] = []
        lane = putting.lane(ordering_key, tenant, group, due)
        extra = putting.extra(retry, expires, lane=lane, type=type, result=result, headers=headers)
        ids, parts = to.options.parts(bodies, extra)
        done = 0
        for elements in parts:
            some = ids[done : done + len(elements)]
            try:
                receipts += await to._send(some, elements, due, "", confirm, lane=lane)
            except (Refused, OutcomeUnknown) as error:
                from reliq.producer import partly

                raise partly(error, ids, done, len(some)) from error
            done += len(elements)
        return [awaited(Receipt(receipt), to) for receipt in receipts] if result else receipts

    async def _send(
        self,
        ids: list[bytes],
        elements: list[bytes],
        due: ops.Due,
        marker: str,
        confirm: ops.Confirm,
        only: ops.Only | None = None,
        *,
        lane: Lane | None = None,
    ) -> list[Receipt]:
        if not self._registered:
            await self._register("Nothing was put: put again.")
        if isinstance(large := elements[0], beside.Beside):
            try:
                await self.links.insist(beside.bring(large, self.name))
            except OutcomeUnknown as error:  # of what nobody knows of without a put
                raise Unavailable(f"{error} Nothing was put: put again.") from error
        producer = self._producers.take()
        command = producer.put(elements, due, marker, confirm, only, lane=lane)
        receipts: list[Receipt] = []

        def name() -> None:
            receipts[:] = receipts_of(ids)

        try:
            reply = await self.links.insist(command, name)
        except Refused:
            self._producers.give_back(producer)
            raise
        except OutcomeUnknown as error:  # its series is frozen: the producer is not given back
            from reliq.producer import unknown_put

            raise unknown_put(error, ids, command) from error
        receipts = confirmed(receipts, reply, command)  # a shortfall freezes the series too
        self._producers.give_back(producer)
        return receipts

    async def _register(self, remedy: str) -> None:
        """Be in the index before the first of what it is to find."""
        try:
            await self.links.insist(self.options.registration())
        except OutcomeUnknown as error:  # of the index entry: nothing else was sent
            raise Unavailable(f"{error} {remedy}") from error
        self._registered = True

    async def repeat(self, error: OutcomeUnknown | PutManyError) -> list[str]:
        """Send a put of unknown outcome once more; the server keeps one copy. Returns its ids. It waits for the
        same ``replicas`` and ``fsync`` again."""
        from reliq.producer import replay_of

        replay, ids = replay_of(error)
        try:
            reply = await self.links.insist(replay)
        except OutcomeUnknown as again:
            raise OutcomeUnknown(str(again), ids=ids, replay=replay) from again
        return [*confirmed(list(map(Receipt, ids)), reply, replay)]

    # -- schedules --------------------------------------------------------------------------------------

    async def schedule(
        self,
        name: str,
        body: Any,
        *,
        cron: str | None = None,
        every: float | None = None,
        tz: str = "UTC",
        catch_up: str = "last",
        jitter: float = 0.0,
        retry: Retry | None = None,
        type: str | None = None,
    ) -> Schedule:
        """Have a message put again and again, from now on: one for each tick, however many processes say so.

        ``cron``: 5 fields, or 6 with seconds first (needs ``reliq[cron]``); or ``every``: seconds, at their
        multiples since 1970. ``tz``: the time zone of ``cron``. ``catch_up``: of the ticks that were missed, by
        more than a minute, while nobody was there: "last" (one message for the last of them), "all", or "none".
        ``jitter``: seconds over which messages are spread. ``retry``, ``type``: as in ``put``. The same again
        changes nothing. Another definition under the same name replaces it: with another timing its next tick is
        computed anew, from now. Workers of the queue see to it; where there are none, a ``Scheduler``.
        Raises ConfigError, BodyError, Refused (it is as it was), or OutcomeUnknown (say it again).
        """
        from reliq.core.schedule import checked_name
        from reliq.core.ticks import schedule_g

        name, options = checked_name(name), self.options
        definition = options.definition(
            body, cron=cron, every=every, tz=tz, catch_up=catch_up, jitter=jitter, retry=retry, type=type
        )
        if not self._registered:
            await self._register("Nothing was scheduled: try again.")
        return options.schedule(
            name, definition, await self.links.flow(schedule_g(options.keys, name, definition))
        )

    async def unschedule(self, name: str) -> bool:
        """Remove a schedule; False if there was none. Messages that it has put already stay."""
        from reliq.core.schedule import checked_name
        from reliq.core.ticks import unschedule_g

        return await self.links.flow(unschedule_g(self.options.keys, checked_name(name)))

    async def schedules(self) -> list[Schedule]:
        """All of them, by name. Raises DecodeError for one that cannot be read, which ``unschedule`` removes."""
        from reliq.core.schedule import Definition
        from reliq.core.ticks import list_g

        found = await self.links.flow(list_g(self.options.keys))
        return [self.options.schedule(name, Definition.read(name, packed), tick) for name, packed, tick in found]

    # -- consume ----------------------------------------------------------------------------------------

    def consumer(self, *, prefetch: int = 1, until_empty: bool = False) -> Consumer:
        """A claimer: ``async with q.consumer() as c: async for lease in c: …``. ``until_empty`` stops at empty.
        Of a queue with levels it takes the normal one; ``q.level("high").consumer()`` the high one."""
        from reliq.aio.consumer import Consumer

        return Consumer(self, prefetch=prefetch, until_empty=until_empty)

    def exclusive(self, *, batch: int = 500, until_empty: bool = False, wait: float | None = 0.0) -> Exclusive:
        """Hold the queue for oneself alone, and take batches in strict order:
        ``async with q.exclusive() as holder: async for batch in holder: async with batch: …``

        ``batch``: messages at a time, 1 to 1,000; fewer if they are more than 256 kB together (a larger message
        comes alone). ``until_empty`` stops at empty. ``wait``: seconds to wait until nobody else is there (None:
        for ever); QueueHeld says who is.
        """
        from reliq.aio.exclusive import Exclusive

        return Exclusive(self, batch=batch, until_empty=until_empty, wait=wait)

    @overload
    def ack(
        self,
        function: Callable[P, R],
        /,
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        expected: float | None = None,
        type: str | None = None,
        batch: int | None = None,
        wait: float = 0.0,
    ) -> Handler[P, R]: ...

    @overload
    def ack(
        self,
        function: None = None,
        /,
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        expected: float | None = None,
        type: str | None = None,
        batch: int | None = None,
        wait: float = 0.0,
    ) -> Callable[[Callable[P, R]], Handler[P, R]]: ...

    def ack(
        self,
        function: Any = None,
        /,
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        expected: float | None = None,
        type: str | None = None,
        batch: int | None = None,
        wait: float = 0.0,
    ) -> Any:
        """Make a handler of a function: ``@q.ack`` or ``@q.ack(retry=Retry(...), timeout=30)``.

        ``retry``: the policy for it (None: the queue's). ``timeout``: seconds that one attempt may take.
        ``expected``: seconds after which a worker says once, with its stack, that it still runs (None: 60, if it
        has no timeout). ``type``: of which messages, if there are several handlers (None: of all others).
        ``batch``: the function takes a list of bodies, at most so many (1 to 1,000), and ``leases`` if it has
        such a parameter. ``wait``: seconds from the first of them for which one that is not full waits for more.
        It returns: all are done; it raises: all have failed; ``BatchFailed``: those that it names.
        TypeError if the function wants more than the body and the lease.
        """
        from reliq.ack import decorate

        return decorate(
            self,
            function,
            retry=retry,
            timeout=timeout,
            expected=expected,
            type=type,
            batch=batch,
            wait=wait,
        )

    # -- ask --------------------------------------------------------------------------------------------

    async def size(self) -> Sizes:
        """How many messages are in each state: .ready .doing .later .dead"""
        return await self.links.flow(flows.sizes_g(self.options.keys))

    async def explain(self, id: str, *, deep: bool = True, stack: bool = False) -> Explanation:
        """Where a message is, why it is not further, what happens next, and what to do.

        ``id``: as its put returned it, or the text of your own. A message of another queue under this prefix is
        found there. ``deep=False``: look only where the id says; else all is read before it is said to be nowhere,
        which takes a while in a queue of millions (a message in its place is found at once, however deep).
        It only reads, except with ``stack=True``: then the worker that has it in hand is asked, and waited for up
        to 2 s, where its handler is.
        """
        from reliq.aio.steward import with_stack
        from reliq.core.explain import explain_g

        found = await self.links.flow(explain_g(self.options.keys, id, deep=deep))
        return (await with_stack(self.links, self.options.keys, found)) if stack else found

    async def result(self, id: str, timeout: float | None = None) -> Any:
        """What the handler of a message returned, whose put asked (``result=``): waits for that, for at most
        ``timeout`` seconds (None: as long as it takes), without asking again and again. It takes nothing away: any
        number may wait, in any process, on a connection each, and ask again for as long as it is kept.

        ``id``: as for ``explain``. Raises MessageFailed if it was dead-lettered, cancelled, replaced or purged,
        with the traceback of its handler; ResultPending after the timeout; ResultMissing if there is none and will
        be none; Unavailable, if Redis is away for longer than the queue's ``timeout``.
        """
        from reliq.aio.result import Waiter

        return await Waiter(self).result(id, timeout)

    async def progress(self, id: str) -> Any:
        """What the handler of a message has said last of how far it is (``lease.progress``); None: nothing, or
        longer ago than an hour (or as its result is kept)."""
        from reliq.core import explain, results

        return await self.links.insist(results.progress(self.options.keys, explain.raw_id(id, "progress")))

    async def revive(self, id: str) -> bool:
        """Put a dead letter back to ready, behind what waits, with all attempts before it; False if there is none
        of this id. Reads dead letters until it is found; ``reliq dead revive`` takes many at once."""
        from reliq.core.dead import revive_g

        return await self.links.flow(revive_g(self.options.keys, id, identity.consumer_name()))

    async def cancel(self, id: str, *, by: str = "") -> bool:
        """See to it that no handler gets this message (again); False if nothing of this id is here: it is done,
        dead, or was never here.

        One that waits is taken out of the queue. One that a consumer has in hand is marked: within a second its
        handler is told (``lease.cancelled``; a coroutine of a worker gets CancelledError), and however it ends, or
        dies, the message ends with it: no retry, no dead letter. If it returns all the same, it has done its work.

        ``id``: as for ``explain``. ``by``: who that is, in a word; the ledger keeps it (default: the program).
        True also if it was cancelled before, as far as the ledger tells (two weeks, 10,000 entries). A message in
        its place is found at once, however deep; else all is read, which takes a while in a queue of millions.
        Raises QueueHeld for what an exclusive holder has in hand; MovedOn if it was never still.
        """
        from reliq.core.waiting import cancel_g

        return await self.links.flow(cancel_g(self.options.keys, id, identity.caller(by)))

    async def reschedule(self, id: str, *, delay: float | None = None, at: datetime | None = None) -> bool:
        """Let a waiting message become due in ``delay`` seconds, or ``at`` an aware datetime, by the server's
        clock; False if nothing of this id waits. What is ready already and due by then stays in its place.

        It is found, and refused, as by ``cancel``.
        """
        from reliq.core.waiting import reschedule_g

        due = putting.another_time(delay, at)
        return await self.links.flow(reschedule_g(self.options.keys, id, due, identity.caller()))

    # -- steer ------------------------------------------------------------------------------------------

    async def pause(self, *, by: str = "") -> bool:
        """Let nobody claim from here until ``resume``; False if it was paused before. What is in hand is finished,
        puts are accepted. Who is at work sees it with its next claim, and all within a second. ``by``: who that
        is, in a word (default: the program).
        """
        from reliq.core import gate

        changed: bool = await self.links.insist(gate.pause(self.options.keys, identity.caller(by, "pause").name))
        return changed

    async def drain(self, *, by: str = "") -> bool:
        """Take no more puts until ``resume``: they are refused (QueueDraining), while workers go on with what is
        there, and what comes due or is tried again. False if it was so before. Ticks of schedules wait, too;
        foreign producers know nothing of it.
        """
        from reliq.core import gate

        changed: bool = await self.links.insist(gate.drain(self.options.keys, identity.caller(by, "drain").name))
        return changed

    async def resume(self, *, by: str = "") -> bool:
        """End a pause, within a second, and a drain, at once; False if there was neither."""
        from reliq.core import gate

        changed: bool = await self.links.insist(gate.resume(self.options.keys, identity.caller(by, "resume").name))
        return changed

    async def limit(
        self,
        *,
        rate: float | None = None,
        burst: int | None = None,
        concurrency: int | None = None,
        tenant_rate: float | None = None,
        tenant_burst: int | None = None,
        tenant_concurrency: int | None = None,
        by: str = "",
    ) -> bool:
        """Limit what all workers together claim; None takes that limit away. False if all was so before.

        ``rate``: messages a second, ``burst`` of them at once after a rest (None: what a second brings).
        ``concurrency``: messages in hand at once. ``tenant_…``: the same for each tenant (``put(tenant=)``).
        Each delivery counts, another attempt too. What a limit keeps back stays in its place. It stands in Redis,
        so that it is enough to say it once; to say it again when a program starts changes nothing.
        """
        from reliq.core import gate

        who = identity.caller(by, "limit").name
        limits = gate.Limits(rate, burst, concurrency)
        each_tenant = gate.Limits(tenant_rate, tenant_burst, tenant_concurrency)
        command = gate.limit(self.options.keys, who, limits, each_tenant)
        changed: bool = await self.links.insist(command)
        return changed

    async def purge(self, *states: str, by: str = "") -> int:
        """Remove what waits, for good: in "ready" and in "later", or one of them; returns how many messages. It is
        taken out in one step, so that none of it is claimed any more; what is in hand, dead, or put meanwhile,
        stays.
        ``reliq purge`` asks first, and can export. If it is cut short, the next purge goes on with what is left.
        """
        from reliq.core.purge import STATES, purge_g

        return await self.links.flow(
            purge_g(self.options.keys, states or STATES, identity.caller(by, "purge"), identity.consumer_name())
        )

    async def gate(self) -> Gate:
        """What stands before the queue: .paused .paused_at .rate .burst .concurrency .draining .tenant_rate …"""
        from reliq.core import gate

        return await self.links.flow(gate.look_g(self.options.keys))

    async def ping(self) -> str:
        """Connect and check; returns the server's version. Raises what is wrong, in one line."""
        return (await self.links.server()).version

    async def enroll(self) -> None:
        """Connect, check, and be known in the index, as far as that takes new entries. A worker does so when it
        starts. Raises what is wrong; NewerSchema, if a later release has changed what the keys mean."""
        await self.ping()
        try:
            await self.links.insist(self.options.registration())
        except NewerSchema:
            raise
        except ReliqError as error:  # the index is for people: work goes on without it
            log.debug("queue %r is not in the index: %s", self.name, error)

    async def aclose(self) -> None:
        """Close the idle connections of this event loop. The queue can still be used; it opens new ones."""
        for level in list(self._levels.values()):
            await level.aclose()
        await self.links.aclose()

    async def __aenter__(self) -> Queue:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _find(settings: Settings) -> Settings:
    """Starting the private Redis takes a while and blocks; reading a setting does not."""
    if settings.url is not None:
        return embedded.here_or_embedded(settings)
    return await asyncio.to_thread(embedded.here_or_embedded, settings)
