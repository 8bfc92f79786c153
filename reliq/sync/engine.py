"""A consumer's way to Redis: the state machine of the core, its two connections, and one lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from reliq.core import ops
from reliq.core.command import Command
from reliq.core.consumer import Answer
from reliq.core.outcome import Moved
from reliq.core.topology import HOPS
from reliq.errors import NewerSchema, OutcomeUnknown, QueueFull, QueueHeld, Refused, ReliqError, WrongKeyType
from reliq.identity import clock
from reliq.logging import log
from reliq.tripping import Tripping

if TYPE_CHECKING:
    from reliq.sync.queue import Queue


T = TypeVar("T")


class Rest(NamedTuple):
    """What came of a trip that was sent behind a BLMOVE. ``refused``: that BLMOVE failed, and did not wait."""

    command: Command
    sent_at: float
    reply: Any
    refused: bool


class Engine(Tripping):
    """Makes trips, one at a time, and waits for the bell.

    Two connections: one blocks in BLMOVE, the other makes the trips, so that acks never wait behind a
    blocked claim. An error leaves the trip unanswered; the next call sends the very same trip again.
    """

    def __init__(self, queue: Queue, who: str) -> None:
        options = queue.options
        super().__init__(options, who)
        self.queue = queue
        self._lock = threading.Lock()
        self._preparing = threading.RLock()  # a thread that was interrupted before it let go may take it again
        self._trips = queue.links.new(name="reliq-trip")
        self._bells = queue.links.new(name="reliq-bell", read_timeout=queue.settings.patience)
        # A trip whose answer nobody has read yet, and when it was sent.
        self._sent: tuple[Command, float] | None = None
        self._bell_id = 0
        self.on_bell: Callable[[], None] = lambda: None
        self._bell_over = False
        self._unanswered: set[tuple[str, int]] = set()  # (run id, connection) whose BLMOVE may be under way

    def begin(self, want: int) -> None:
        """Send the next trip and do not wait: ``trip`` takes its answer, and meets what went wrong."""
        with self._lock, suppress(ReliqError):
            if not self.state.unanswered:
                self._reach()
                sent_at = clock()
                command = self.state.trip(want, sent_at)
                self._trips.send(command)
                self._sent = command, sent_at

    def trip(self, want: int, *, look: bool = True) -> Answer:
        """One trip: that which is under way, or a new one. Raises what went wrong; nothing is lost by that, and a
        later call repeats it. ``look``: see ``ConsumerState.answered``."""
        with self._lock:
            try:
                reply, sent_at = self._under_way() or self._run(lambda now: self.state.trip(want, now))
                if self._is_over(reply, sent_at):
                    reply, sent_at = self._end_hold()
                while self._unclear(reply):
                    reply, sent_at = self._run(lambda now: self.state.trip(want, now))
            except (Refused, OutcomeUnknown) as error:
                self._note_down(error)
                raise
            answer = self._take(reply, sent_at, look=look)
        self._announce(answer)
        return self.prepared(answer) if look and self.state.can_prepare else answer

    def prepared(self, answer: Answer) -> Answer:
        """With those messages for which something had to be done first, as far as that goes now. What is left is
        tried again after the next trip."""
        if not self._preparing.acquire(blocking=False):  # another thread is at it, and gets them all
            return answer
        state, messages = self.state, list(answer.messages)
        try:
            while (due := state.preparation) is not None:
                try:
                    reply = self.queue.links.run(due.command)
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
            self._preparing.release()
        return answer._replace(messages=state.in_order(messages))

    def _end_hold(self) -> tuple[Any, float]:
        """End the hold of somebody whose lease is over, and make the trip again that found it."""
        ending = self._ending(self._trips.server.identity)
        self._run(lambda now: ending)
        return self._run(lambda now: self.state.trip(0, now))

    def _under_way(self) -> tuple[Any, float] | None:
        """The answer to what ``begin`` has sent, as ``_run`` gives it; None if nothing was, or it has to be sent
        again, elsewhere."""
        sent, self._sent = self._sent, None
        if sent is not None:
            with suppress(Moved):
                return self._trips.receive(sent[0]), sent[1]
        return None

    def _reach(self) -> None:
        if self._trips.connect():
            try:
                self._connected()
            except NewerSchema:
                self._trips.close()  # so that the next trip does not get through, either
                raise

    def _run(self, make: Callable[[float], Command]) -> tuple[Any, float]:
        """Run a command on the trips' connection, and again where the slot has moved to: (reply, when sent)."""
        for _ in range(HOPS):
            self._reach()
            sent_at = clock()
            with suppress(Moved):
                return self._trips.run(make(sent_at)), sent_at
        return self._trips.run(make(sent_at)), sent_at

    def _connected(self) -> None:
        self.state.reconnected(self._trips.server.identity)
        registration = self.queue.options.registration()
        if self._trips.server.cluster:  # in another slot, whose node may be down while ours is not
            try:
                self.queue.links.run(registration)
            except NewerSchema:
                raise
            except ReliqError:
                pass
            return
        with suppress(QueueFull):  # a full Redis takes no new entry, but it can be drained
            self._trips.run(registration)

    def ring(self, seconds: float) -> None:
        """Wait in BLMOVE for at most ``seconds`` until there is a message (in our inbox then).

        Nothing depends on the reply: a lost, late or doubled one is answered by the next trip.
        """
        self._reach_bell()
        self._call(lambda: self._bells.run(ops.bell(self.state.keys, self.state.name, seconds)))

    def rest(self, seconds: float, want: int) -> Rest | None:
        """Wait like ``ring``, with the next trip right behind it on the same connection: with nothing in hand, a
        message is here after one round trip. ``rested`` takes what came of it.

        None: there is no such trip now. The trip is unanswered while we wait; whoever needs one meanwhile sends it
        again, as always, and then what comes here is no answer any more.
        """
        is_new = self._reach_bell()
        with self._lock:
            if is_new:
                self.state.reconnected(self._bells.server.identity)
            if self.state.unanswered or self._bells.server.identity != self.state.server:
                return None
            sent_at = clock()
            command = self.state.trip(want, sent_at)
            if self.state.under_way:  # somebody has finished meanwhile, and may wait to hear of it
                return None
        both = [ops.bell(self.state.keys, self.state.name, seconds), command]
        replies = self._call(lambda: self._bells.pipeline(both))
        return None if replies is None else Rest(command, sent_at, replies[1], isinstance(replies[0], ReliqError))

    def rested(self, rest: Rest) -> Answer | None:
        """The answer to the trip that waited behind the bell; None if it got none there, or another copy did."""
        with self._lock:
            if isinstance(rest.reply, ReliqError):
                return None
            if not self.state.awaits(rest.command):
                self._duty = int(rest.reply[8])
                return None
            try:
                answer = self._take(rest.reply, rest.sent_at)
            except QueueHeld:  # the next trip meets it, too
                return None
        self._announce(answer)
        return self.prepared(answer) if self.state.can_prepare else answer

    def _reach_bell(self) -> bool:
        """Connect the bell; True if that is a new connection."""
        if not self._bells.connect() and self._bell_id:
            return False
        self._bell_id = self._bells.server.client_id
        self.on_bell()  # before it can take a message: who sees us die must be able to end it
        return True

    def _call(self, blmove: Callable[[], T]) -> T | None:
        """Make this call, noting that it may be under way until its reply is known; None: it is over with that."""
        call = (self._bells.server.run_id, self._bell_id)
        self._unanswered.add(call)
        if self._bell_over:  # set before end_bell() looks at what is unanswered: one of us sees the other
            self._unanswered.discard(call)
            return None
        try:
            reply = blmove()
        except Refused:
            self._unanswered.discard(call)
            raise
        self._unanswered.discard(call)
        return reply

    def interrupt(self) -> None:
        """End the wait of whoever waits for the bell, who comes back at once. If Redis does not answer, he comes
        back later."""
        with suppress(ReliqError):
            if self._bell_id:  # not on the connection for trips, on which one may be under way
                self.queue.links.run(ops.unblock(self._bell_id))

    def end_bell(self, *, is_over: Callable[[], bool] = lambda: True) -> bool:
        """End every BLMOVE of ours that may be under way, also on connections that we have lost; True if none can
        be any more.

        ``is_over``: whether the thread that waits for it has come back.
        """
        self._bell_over = True
        with self._lock:
            self._drop()
            try:
                for tries in range(100):
                    if is_over() or not self._bell_id:
                        break
                    if tries % 10 == 0:  # more than once: its BLMOVE may be on the way when the first one comes
                        self._trips.run(ops.unblock(self._bell_id))
                    time.sleep(0.01)
                self._trips.connect()
                here = self._trips.server.run_id
                for _, id in [call for call in list(self._unanswered) if call[0] == here and all(call)]:
                    self._trips.run(ops.kill_client(id))
            except ReliqError:
                return False
        # Those of a server that has restarted since ended with it, and ids mean somebody else now. Where we may
        # not know who the server is or who we are, nothing is certain.
        return all(map(all, list(self._unanswered)))

    def _drop(self) -> None:
        """Never read the answer to a trip as that to something else."""
        if self._sent is not None:
            self._sent = None
            self._trips.close()

    def leave(self, *, bell_ended: bool) -> bool:
        """Say goodbye; True if nothing of us is left. If Redis does not answer, the lease ends by itself and
        a reaper sees to the rest."""
        with self._lock:
            self._drop()
            try:
                goodbye = ops.leave(self.state.keys, self.state.name, bell_ended=bell_ended)
                return bool(self._run(lambda now: goodbye)[0])
            except ReliqError as error:
                log.warning("queue %r: could not say goodbye: %s", self.queue.name, error)
                return False
            finally:
                self.close()

    def close(self) -> None:
        """Close both connections."""
        self._trips.close()
        self._bells.close()

    @property
    def bell_id(self) -> int:
        """The server's id of the connection that blocks in BLMOVE; 0 before the first time."""
        return self._bell_id

    @property
    def server(self) -> str:
        """The run id of the server that the trips reach."""
        return self._trips.server.run_id
