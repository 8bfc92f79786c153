"""What a consumer's engine concludes from an answer, and what it tells people; the same in both shells."""

from __future__ import annotations

from reliq.core import envelope as env
from reliq.core.consumer import BURY, Answer, ConsumerState, Message, Settle
from reliq.errors import ReliqError
from reliq.logging import log
from reliq.model import QueueOptions, clock, consumer_name


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
        self.answered_at = clock()
        self._name = options.name
        self._down = False

    def _take(self, reply: list[object], sent_at: float) -> Answer:
        """Digest the reply of a trip; go on under a new name if the old one was declared dead."""
        answer = self.state.answered(reply, sent_at)
        self.answered_at = clock()
        self._note_up()
        if answer.status in ("dead", "stale"):
            self._rename()
        return answer

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
        for message in answer.lost:
            log.warning(
                "queue %r: the lease of message %s is lost (its consumer was silent for longer than the lease "
                "of %s s); another consumer has it",
                self._name, message.id, self.state.lease, extra=self._fields(message),
            )  # fmt: skip
        late = [s for s in answer.settled if not s.accepted]
        if late:
            log.warning(
                "queue %r: %d late settle(s) refused, the first: %s of message %s",
                self._name, len(late), late[0].verb, late[0].message.id,
                extra=self._fields(late[0].message),
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
                extra=self._fields(buried[0].message),
            )  # fmt: skip

    def _fields(self, message: Message) -> dict[str, object]:
        """What a log record says of a message when no handler's context does."""
        return {
            "queue": self._name,
            "id": message.id,
            "attempt": message.attempt,
            "consumer": message.consumer,
            "trace_id": message.trace_id,
        }

    def _note_down(self, error: ReliqError) -> None:
        """One line when the connection goes, one when it is back; not one per try."""
        if not self._down:
            self._down = True
            text = str(error).removeprefix(f"queue {self._name!r}: ")
            log.error("queue %r: %s Trying again until it answers.", self._name, text)

    def _note_up(self) -> None:
        if self._down:
            self._down = False
            log.warning("queue %r: Redis answers again", self._name)


def _is_unread(settle: Settle) -> bool:
    """Whether a message was dead-lettered because its bytes could not be read."""
    return settle.verb == BURY and settle.message.body is None and not settle.message.envelope.body
