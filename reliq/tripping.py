"""What a consumer's engine concludes from an answer, and what it tells people; the same in both shells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reliq.core import envelope as env
from reliq.core.command import Command
from reliq.core.consumer import Answer, ConsumerState
from reliq.core.expiry import EXPIRED
from reliq.core.message import BURY, Settle
from reliq.core.reaping import Patience
from reliq.errors import NewerSchema, QueueHeld, ReliqError
from reliq.identity import clock, consumer_name
from reliq.logging import about, log
from reliq.model import QueueOptions


class Tripping:
    """The state machine under a fresh name, and the words about what happens to it. No I/O in here."""

    def __init__(self, options: QueueOptions, who: str) -> None:
        self.state = ConsumerState(
            options.keys,
            consumer_name(),
            lease=options.lease,
            codec=options.codec,
            raw_codec=options.raw_codec,
            who=who,
        )
        self.state.route = options.route
        self.answered_at = clock()
        self._name, self._max_losses = options.name, options.max_losses
        self._down = self._newer = self._unprepared = self._kept_out = self._paused = False
        self._patience = Patience(options.lease, clock)
        #: A duty from an answer that came too late to be one: the server gives it to nobody else for a while.
        self._duty = 0
        #: Is told of each answer, of how many settles it is the answer to, and when that was sent.
        self.watch: Callable[[Answer, int, float], None] | None = None

    def _take(self, reply: list[Any], sent_at: float, *, look: bool = True) -> Answer:
        """Digest the reply of a trip; go on under a new name if the old one was declared dead. ``look``: see
        ``ConsumerState.answered``; who watches wants to see all at once."""
        if reply[0] == b"held":
            raise self._held(reply)
        watch = self.watch
        owed = self.state.under_way if watch is not None else 0
        answer = self.state.answered(reply, sent_at, look=look or watch is not None)
        if self._duty and not answer.sweep:
            answer, self._duty = answer._replace(sweep=self._duty), 0
        self.answered_at = clock()
        self.state.heard = answer.server_ms, self.answered_at
        self._note_up()
        self._note_let_in()
        if answer.status in ("dead", "stale"):
            self._rename()
        if watch is not None:
            watch(answer, owed, sent_at)
        return answer

    def _unclear(self, reply: list[Any]) -> bool:
        """Whether the trip has to be made again, with all of its acks by name."""
        if reply[0] != b"spell":
            return False
        self.state.spell(reply)
        return True

    def _held(self, reply: list[Any]) -> QueueHeld:
        """Somebody holds the queue for himself alone. One line about it, and one when he is gone."""
        self.state.refused()
        who, left = b", ".join(reply[9]).decode("utf-8", "replace"), reply[7] / 1000
        error = QueueHeld(
            f"queue {self._name!r}: {who} holds it exclusively, and has {left:.1f} s left of its lease; consumers "
            "can claim when it is through. End that program if you want workers instead",
            names=[who],
            left=left,
        )
        if not self._kept_out:
            self._kept_out = True
            log.error("%s.", error)
        return error

    def _note_let_in(self) -> None:
        if self._kept_out:
            self._kept_out = False
            log.warning("queue %r: nobody holds it exclusively any more", self._name)

    def _is_over(self, reply: list[Any], sent_at: float) -> bool:
        """Whether somebody holds the queue for himself alone whose lease is over, as far as that may be believed
        (DESIGN 9.10); answered to what was sent then."""
        if reply[0] != b"held":
            return False
        doubted = self._patience.holds(reply[1], sent_at)
        return bool(reply[7] == 0 and not doubted)

    def _ending(self, server: str) -> Command:
        """Ends that; ``server``: its run id."""
        from reliq.core import exclusive  # most workers never meet one

        return exclusive.end(self.state.keys, lease=self.state.lease, max_losses=self._max_losses, server=server)

    def _rename(self) -> None:
        """Our name was declared dead while we were silent; everything it held is in other hands."""
        old = self.state.name
        self.state.rename(consumer_name())
        log.warning(
            "queue %r: consumer %s was declared dead while it was silent; going on as %s",
            self._name, old, self.state.name,
        )  # fmt: skip

    def _announce(self, answer: Answer) -> None:
        """Tell people what was lost, and whoever waits that it is settled."""
        if self.state.paused != self._paused:
            self._paused = self.state.paused
            log.warning(
                "queue %r %s", self._name,
                "is paused: nothing is claimed until somebody says `reliq resume`" if self._paused
                else "goes on: it is not paused any more",
            )  # fmt: skip
        if not (answer.lost or answer.settled):
            return
        for message in answer.lost:
            log.warning(
                "queue %r: the lease of message %s is lost (its consumer was silent for longer than the lease "
                "of %s s); another consumer has it",
                self._name, message.id, self.state.lease, extra=about(message),
            )  # fmt: skip
        late = [s for s in answer.settled if not s.accepted]
        if late:
            log.warning(
                "queue %r: %d late settle(s) refused, the first: %s of message %s",
                self._name, len(late), late[0].verb, late[0].message.id,
                extra=about(late[0].message),
            )  # fmt: skip
        self._announce_unread([s for s in answer.settled if s.accepted and _is_unread(s)])
        for settle in answer.settled:
            if settle.on_settled is not None:
                settle.on_settled(settle)

    def _announce_unread(self, buried: list[Settle]) -> None:
        """What cannot be decoded never reaches a handler, so nobody else tells of it. One line per trip."""
        if buried:
            note = env.split_note(buried[0].back)[0]
            log.error(
                "queue %r: %d message(s) dead-lettered unread, the first: %s (%s); see reliq dead ls",
                self._name, len(buried), note.get("error"), note.get("cause"),
                extra=about(buried[0].message),
            )  # fmt: skip

    def _note_down(self, error: ReliqError) -> None:
        """One line when the connection goes, one when it is back, one if it is a later release that is met there;
        not one per try."""
        self._patience.failed()
        newer = isinstance(error, NewerSchema)
        if not self._down or (newer and not self._newer):
            self._down, self._newer = True, newer
            text = str(error).removeprefix(f"queue {self._name!r}: ")
            log.error("queue %r: %s Trying again until it answers.", self._name, text)

    def _note_unprepared(self, error: ReliqError) -> None:
        """One line when what comes before a hand-over cannot be done; not one per try."""
        if not self._unprepared:
            self._unprepared = True
            text = str(error).removeprefix(f"queue {self._name!r}: ")
            log.error(
                "queue %r: messages cannot be handed over yet: %s Trying again with the next round trip.",
                self._name,
                text,
            )

    def _note_up(self) -> None:
        if self._down:
            self._down = self._newer = False
            log.warning("queue %r: Redis answers again", self._name)


def _is_unread(settle: Settle) -> bool:
    """Whether a message was dead-lettered that no handler has seen: it could not be read, or its time was over."""
    unread = settle.message.body is None and not settle.message.envelope.body
    return settle.verb == BURY and (unread or settle.detail == EXPIRED)
