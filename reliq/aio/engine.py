"""A consumer's way to Redis: the state machine of the core, its two connections, and one lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reliq.aio.connection import Link
from reliq.core import ops
from reliq.core.command import Command
from reliq.core.consumer import Answer
from reliq.core.outcome import Moved
from reliq.core.topology import HOPS
from reliq.errors import OutcomeUnknown, QueueFull, Refused, ReliqError
from reliq.logging import log
from reliq.model import clock
from reliq.tripping import Tripping

if TYPE_CHECKING:
    from reliq.aio.queue import Queue


class Engine(Tripping):
    """Makes trips, one at a time, and waits for the bell.

    Two connections: one blocks in BLMOVE, the other makes the trips, so that acks never wait behind a
    blocked claim. An error, or the cancellation of the task that makes it, leaves the trip unanswered; the
    next call sends the very same trip again.
    """

    def __init__(self, queue: Queue, who: str) -> None:
        super().__init__(queue.options, who)
        self.queue = queue
        self._lock = asyncio.Lock()
        self._trips: Link | None = None
        self._bells: Link | None = None
        # A trip whose answer nobody has read yet, and when it was sent.
        self._sent: tuple[Command, float] | None = None
        self._bell_id = 0
        self._unanswered: set[tuple[str, int]] = set()  # (run id, connection) whose BLMOVE may be under way

    async def begin(self, want: int) -> None:
        """Send the next trip and do not wait: ``trip`` takes its answer, and meets what went wrong."""
        async with self._lock:
            with suppress(ReliqError):
                if not self.state.unanswered:
                    link = await self._link()
                    await self._reach(link)
                    sent_at = clock()
                    command = self.state.trip(want, sent_at)
                    await link.send(command)
                    self._sent = command, sent_at

    async def trip(self, want: int) -> Answer:
        """One trip: that which is under way, or a new one. Raises what went wrong; nothing is lost by that, and a
        later call repeats it."""
        async with self._lock:
            try:
                reply, sent_at = await self._under_way() or await self._run(lambda now: self.state.trip(want, now))
            except (Refused, OutcomeUnknown) as error:
                self._note_down(error)
                raise
            answer = self._take(reply, sent_at)  # no await from here to the caller's buffer
        self._announce(answer)
        return answer

    async def _link(self) -> Link:
        if self._trips is None:
            self._trips = await self.queue.links.new(name="reliq-trip")
        return self._trips

    async def _under_way(self) -> tuple[Any, float] | None:
        """The answer to what ``begin`` has sent, as ``_run`` gives it; None if nothing was, or it has to be sent
        again, elsewhere."""
        sent, self._sent = self._sent, None
        if sent is not None:
            with suppress(Moved):
                return await (await self._link()).receive(sent[0]), sent[1]
        return None

    async def _reach(self, link: Link) -> None:
        if await link.connect():
            await self._connected(link)

    async def _run(self, make: Callable[[float], Command]) -> tuple[Any, float]:
        """Run a command on the trips' connection, and again where the slot has moved to: (reply, when sent)."""
        link = await self._link()
        for _ in range(HOPS):
            await self._reach(link)
            sent_at = clock()
            with suppress(Moved):
                return await link.run(make(sent_at)), sent_at
        return await link.run(make(sent_at)), sent_at

    async def _connected(self, link: Link) -> None:
        self.state.reconnected(link.server.identity)
        registration = self.queue.options.registration()
        if link.server.cluster:  # in another slot, whose node may be down while ours is not
            with suppress(ReliqError):
                await self.queue.links.run(registration)
            return
        with suppress(QueueFull):  # a full Redis takes no new entry, but it can be drained
            await link.run(registration)

    async def ring(self, seconds: float) -> None:
        """Wait in BLMOVE for at most ``seconds`` until there is a message (in our inbox then).

        Nothing depends on the reply: a lost, late or doubled one is answered by the next trip.
        """
        if self._bells is None:
            options = self.queue.options
            self._bells = await self.queue.links.new(
                name="reliq-bell", read_timeout=options.block + options.timeout
            )
        await self._bells.connect()
        self._bell_id = self._bells.server.client_id
        call = (self._bells.server.run_id, self._bell_id)
        self._unanswered.add(call)
        try:
            await self._bells.run(ops.bell(self.state.keys, self.state.name, seconds))
        except Refused:
            self._unanswered.discard(call)
            raise
        self._unanswered.discard(call)

    async def end_bell(self) -> bool:
        """End every BLMOVE of ours that may be under way, also on connections that we have lost; True if none can
        be any more."""
        async with self._lock:
            await self._drop()
            try:
                link = await self._link()
                await link.connect()
                here = link.server.run_id
                for _, id in [call for call in list(self._unanswered) if call[0] == here and all(call)]:
                    await link.run(ops.kill_client(id))
            except ReliqError:
                return False
        # Those of a server that has restarted since ended with it, and ids mean somebody else now. Where we may
        # not know who the server is or who we are, nothing is certain.
        return all(map(all, list(self._unanswered)))

    async def _drop(self) -> None:
        """Never read the answer to a trip as that to something else."""
        if self._sent is not None and self._trips is not None:
            self._sent = None
            await self._trips.aclose()

    async def leave(self, *, bell_ended: bool) -> bool:
        """Say goodbye; True if nothing of us is left. If Redis does not answer, the lease ends by itself and
        a reaper sees to the rest."""
        async with self._lock:
            await self._drop()
            try:
                goodbye = ops.leave(self.state.keys, self.state.name, bell_ended=bell_ended)
                return bool((await self._run(lambda now: goodbye))[0])
            except ReliqError as error:
                log.warning("queue %r: could not say goodbye: %s", self.queue.name, error)
                return False
            finally:
                await self.aclose()

    async def aclose(self) -> None:
        """Close both connections."""
        for link in (self._trips, self._bells):
            if link is not None:
                await link.aclose()

    @property
    def bell_id(self) -> int:
        """The server's id of the connection that blocks in BLMOVE; 0 before the first time."""
        return self._bell_id

    @property
    def server(self) -> str:
        """The run id of the server that the trips reach."""
        return "" if self._trips is None else self._trips.server.run_id
