"""A consumer's way to Redis: the state machine of the core, its two connections, and one lock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from reliq.core import ops
from reliq.core.consumer import Answer, ConsumerState
from reliq.errors import OutcomeUnknown, Refused, ReliqError
from reliq.logging import log
from reliq.model import clock, consumer_name

if TYPE_CHECKING:
    from reliq.sync.queue import Queue


class Engine:
    """Makes trips, one at a time, and waits for the bell.

    Two connections: one blocks in BLMOVE, the other makes the trips, so that acks never wait behind a
    blocked claim. An error leaves the trip unanswered; the next call sends the very same trip again.
    """

    def __init__(self, queue: Queue, who: str) -> None:
        options = queue.options
        self.queue = queue
        self.state = ConsumerState(
            options.keys,
            consumer_name(),
            lease=options.lease,
            codec=options.codec,
            raw_codec=options.raw_codec,
            who=who,
        )
        self._lock = threading.Lock()
        self._trips = queue.links.new(name="reliq-trip")
        self._bells = queue.links.new(name="reliq-bell", read_timeout=options.block + options.timeout)
        self._bell_id = 0
        self._down = False
        self.answered_at = clock()

    def trip(self, want: int) -> Answer:
        """One trip. Raises what went wrong; nothing is lost by that, and a later call repeats it."""
        with self._lock:
            try:
                if self._trips.connect():
                    self._connected()
                sent_at = clock()
                reply = self._trips.run(self.state.trip(want, sent_at))
            except (Refused, OutcomeUnknown) as error:
                self._note_down(error)
                raise
            answer = self.state.answered(reply, sent_at)
            self.answered_at = clock()
            self._note_up()
            if answer.status in ("dead", "stale"):
                self._rename(answer)
        self._report(answer)
        for settle in answer.settled:
            if settle.on_settled is not None:
                settle.on_settled(settle)
        return answer

    def _connected(self) -> None:
        self.state.reconnected(self._trips.server.run_id)
        self._trips.run(ops.register(self.state.keys, self.queue.options.named_codec))

    def _rename(self, answer: Answer) -> None:
        """Our name was declared dead while we were silent; everything it held is in other hands."""
        old = self.state.name
        self.state.rename(consumer_name())
        log.warning(
            "queue %r: consumer %s was declared dead while it was silent; going on as %s",
            self.queue.name, old, self.state.name,
        )  # fmt: skip

    def _report(self, answer: Answer) -> None:
        for message in answer.lost:
            log.warning(
                "queue %r: the lease of message %s is lost (its consumer was silent for longer than the lease "
                "of %s s); another consumer has it",
                self.queue.name, message.envelope.id.hex(), self.state.lease,
            )  # fmt: skip
        late = [s for s in answer.settled if not s.accepted]
        if late:
            log.warning(
                "queue %r: %d late settle(s) refused, the first: %s of message %s",
                self.queue.name, len(late), late[0].verb, late[0].message.envelope.id.hex(),
            )  # fmt: skip

    def _note_down(self, error: ReliqError) -> None:
        """One line when the connection goes, one when it is back; not one per try."""
        if not self._down:
            self._down = True
            log.error("queue %r: %s Trying again until it answers.", self.queue.name, error)

    def _note_up(self) -> None:
        if self._down:
            self._down = False
            log.warning("queue %r: Redis answers again", self.queue.name)

    def ring(self, seconds: float) -> None:
        """Wait in BLMOVE for at most ``seconds`` until there is a message (in our inbox then).

        Nothing depends on the reply: a lost, late or doubled one is answered by the next trip.
        """
        if self._bells.connect() or not self._bell_id:
            self._bell_id = self._bells.server.client_id
        self._bells.run(ops.bell(self.state.keys, self.state.name, seconds))

    def end_bell(self, *, wait: threading.Event | None = None) -> bool:
        """End a BLMOVE of ours that may be under way; True if none can be any more.

        ``wait`` is set by the thread that rings once it has come back.
        """
        if not self._bell_id:
            return True
        try:
            if wait is not None and not wait.is_set():
                self._trips.run(ops.unblock(self._bell_id))
                wait.wait(1.0)
            if wait is None or not wait.is_set():
                self._trips.run(ops.kill_client(self._bell_id))
        except ReliqError:
            return False
        return True

    def leave(self, *, bell_ended: bool) -> None:
        """Say goodbye; if Redis does not answer, the lease ends by itself and a reaper sees to the rest."""
        with self._lock:
            try:
                self._trips.run(ops.leave(self.state.keys, self.state.name, bell_ended=bell_ended))
            except ReliqError as error:
                log.warning("queue %r: could not say goodbye: %s", self.queue.name, error)
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
