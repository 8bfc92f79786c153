"""A consumer's way to Redis: the state machine of the core, its two connections, and one lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reliq.aio.link import Link
from reliq.core import ops
from reliq.core.command import Command
from reliq.core.consumer import Answer
from reliq.core.outcome import Moved
from reliq.core.topology import HOPS
from reliq.errors import NewerSchema, OutcomeUnknown, QueueFull, Refused, ReliqError, WrongKeyType
from reliq.identity import clock
from reliq.logging import log
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
        self._preparing = False
        self._trips: Link | None = None
        self._bells: Link | None = None
        # A trip whose answer nobody has read yet, and when it was sent.
        self._sent: tuple[Command, float] | None = None
        self._bell_id = 0
        self._bell_over = False
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

    async def trip(self, want: int, *, look: bool = True) -> Answer:
        """One trip: that which is under way, or a new one. Raises what went wrong; nothing is lost by that, and a
        later call repeats it. ``look``: see ``ConsumerState.answered``."""
        async with self._lock:
            try:
                reply, sent_at = await self._under_way() or await self._run(lambda now: self.state.trip(want, now))
                if self._is_over(reply, sent_at):
                    reply, sent_at = await self._end_hold()
                while self._unclear(reply):
                    reply, sent_at = await self._run(lambda now: self.state.trip(want, now))
            except (Refused, OutcomeUnknown) as error:
                self._note_down(error)
                raise
            answer = self._take(reply, sent_at, look=look)
        self._announce(answer)
        return await self.prepared(answer) if look and self.state.can_prepare else answer

    async def prepared(self, answer: Answer) -> Answer:
        """With those messages for which something had to be done first, as far as that goes now. What is left is
        tried again after the next trip."""
        if self._preparing:  # another task is at it, and gets them all
            return answer
        self._preparing = True
        state, messages = self.state, list(answer.messages)
        try:
            while (due := state.preparation) is not None:
                try:
                    reply = await self.queue.links.run(due.command)
                except WrongKeyType:  # somebody has put something else there
                    reply = None
                messages += due.done(reply)
            self._unprepared = False
        except ReliqError as error:
            self._note_unprepared(error)
        except BaseException:  # interrupted: the next trip brings what nobody gets now
            state.left_over += messages
            raise
        finally:
            self._preparing = False
        return answer._replace(messages=state.in_order(messages))

    async def _link(self) -> Link:
        if self._trips is None:
            self._trips = await self.queue.links.new(name="reliq-trip")
        return self._trips

    async def _end_hold(self) -> tuple[Any, float]:
        """End the hold of somebody whose lease is over, and make the trip again that found it."""
        ending = self._ending((await self._link()).server.identity)
        await self._run(lambda now: ending)
        return await self._run(lambda now: self.state.trip(0, now))

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
            try:
                await self._connected(link)
            except NewerSchema:
                await link.aclose()  # so that the next trip does not get through, either
                raise

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
            try:
                await self.queue.links.run(registration)
            except NewerSchema:
                raise
            except ReliqError:
                pass
            return
        with suppress(QueueFull):  # a full Redis takes no new entry, but it can be drained
            await link.run(registration)

    async def ring(self, seconds: float) -> None:
        """Wait in BLMOVE for at most ``seconds`` until there is a message (in our inbox then).

        Nothing depends on the reply: a lost, late or doubled one is answered by the next trip.
        """
        if self._bells is None:
            patience = self.queue.settings.patience
            self._bells = await self.queue.links.new(name="reliq-bell", read_timeout=patience)
        await self._bells.connect()
        self._bell_id = self._bells.server.client_id
        call = (self._bells.server.run_id, self._bell_id)
        self._unanswered.add(call)
        if self._bell_over:  # set before end_bell() looks at what is unanswered: one of us sees the other
            self._unanswered.discard(call)
            return
        try:
            await self._bells.run(ops.bell(self.state.keys, self.state.name, seconds))
        except Refused:
            self._unanswered.discard(call)
            raise
        self._unanswered.discard(call)

    async def end_bell(self) -> bool:
        """End every BLMOVE of ours that may be under way, also on connections that we have lost; True if none can
        be any more."""
        self._bell_over = True
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
