"""A consumer's way to Redis: the state machine of the core, its two connections, and one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

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
    from reliq.sync.queue import Queue


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
        self._trips = queue.links.new(name="reliq-trip")
        self._bells = queue.links.new(name="reliq-bell", read_timeout=options.block + options.timeout)
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

    def trip(self, want: int) -> Answer:
        """One trip: that which is under way, or a new one. Raises what went wrong; nothing is lost by that, and a
        later call repeats it."""
        with self._lock:
            try:
                reply, sent_at = self._under_way() or self._run(lambda now: self.state.trip(want, now))
            except (Refused, OutcomeUnknown) as error:
                self._note_down(error)
                raise
            answer = self._take(reply, sent_at)
        self._announce(answer)
        return answer

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
            self._connected()

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
            with suppress(ReliqError):
                self.queue.links.run(registration)
            return
        with suppress(QueueFull):  # a full Redis takes no new entry, but it can be drained
            self._trips.run(registration)

    def ring(self, seconds: float) -> None:
        """Wait in BLMOVE for at most ``seconds`` until there is a message (in our inbox then).

        Nothing depends on the reply: a lost, late or doubled one is answered by the next trip.
        """
        if self._bells.connect() or not self._bell_id:
            self._bell_id = self._bells.server.client_id
            self.on_bell()  # before it can take a message: who sees us die must be able to end it
        call = (self._bells.server.run_id, self._bell_id)
        self._unanswered.add(call)
        if self._bell_over:  # set before end_bell() looks at what is unanswered: one of us sees the other
            self._unanswered.discard(call)
            return
        try:
            self._bells.run(ops.bell(self.state.keys, self.state.name, seconds))
        except Refused:
            self._unanswered.discard(call)
            raise
        self._unanswered.discard(call)

    def end_bell(self, *, wait: threading.Event | None = None) -> bool:
        """End every BLMOVE of ours that may be under way, also on connections that we have lost; True if none can
        be any more.

        ``wait`` is set by the thread that rings once it has come back.
        """
        self._bell_over = True
        with self._lock:
            self._drop()
            try:
                for _ in range(10):  # more than once: its BLMOVE may be on the way when the first one comes
                    if wait is None or wait.is_set() or not self._bell_id:
                        break
                    self._trips.run(ops.unblock(self._bell_id))
                    wait.wait(0.1)
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
