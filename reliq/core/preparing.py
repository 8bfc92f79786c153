"""What comes before a message is handed over: that it is begun, if it is unique; that its body is fetched, if that
lies beside the list; and a last look at whether its time is over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from reliq import defaults
from reliq.core import beside, expiry, results, unique
from reliq.core import envelope as env
from reliq.core.beside import Bodies
from reliq.core.codec import Codec, decode
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.message import ACK, BURY, Message, Settle
from reliq.core.results import Results
from reliq.core.routing import Rule
from reliq.core.settling import Settling
from reliq.core.unique import Uniques
from reliq.core.words import duration
from reliq.errors import DecodeError


class Preparation(NamedTuple):
    """What comes before a hand-over: a command, and what is to be called with what it parses to (None: there is
    something else at its key), which returns the messages that are ready by then."""

    command: Command
    done: Callable[[Any], list[Message]]


class Preparing(Settling):
    """The messages of one consumer, as far as something has to be done before they may be handed over."""

    def __init__(self, keys: Keys, name: str, codec: Codec, raw_codec: Codec) -> None:
        super().__init__(name)
        self.keys = keys
        self.bodies = Bodies(keys)
        self.uniques = Uniques()
        self.results = Results(keys)
        #: What tells the type of a body whose message does not carry one.
        self.route: Rule | None = None
        #: The server's clock (ms) by the last answer, and when that was here.
        self.heard: tuple[int, float] | None = None
        self._codec, self._raw_codec = codec, raw_codec

    def expired(self, message: Message, now: float) -> bool:
        """Whether the time of a message was over while it waited here to be handed over, by the server's clock as
        far as that is ``heard`` of; then the next trip dead-letters it."""
        deadline = expiry.deadline_of(message.envelope.meta)
        if deadline is None or self.heard is None:
            return False
        server_ms, heard_at = self.heard
        late = server_ms + round((now - heard_at) * 1000) - deadline
        if late > 0:
            error = f"it expired {duration(late)} before a handler could begin"
            self.finished.append(self.bury(message, expiry.EXPIRED, error))
        return late > 0

    def _expect(self, element: bytes, meta: env.Meta) -> bytes | None:
        """Note what its meta says of a message that comes; returns the ticket of its body, if that lies beside."""
        if (claim := unique.claim_of(meta)) is not None:
            self.uniques.expect(element, claim)
        if (ms := results.asked(meta)) is not None:
            self.results.expect(element, ms)
        if (ticket := beside.ticket_of(meta)) is not None:
            self.bodies.expect(element, ticket)
        return ticket

    def _awaits(self, message: Message) -> bool:
        """Whether something has to be done before this message may be handed over. One thing at a time: what was
        replaced needs no body."""
        return self.uniques.awaits(message) or self.bodies.awaits(message)

    @property
    def preparing(self) -> bool:
        """Whether messages wait for what has to be done first."""
        return bool(self.uniques.unbegun) or self.bodies.are_due

    def is_preparing(self, message: Message) -> bool:
        """Whether this one does."""
        return message in self.uniques.unbegun or self.bodies.is_due(message)

    @property
    def can_prepare(self) -> bool:
        """Whether there is a ``preparation`` to run now."""
        return bool(self.uniques.unbegun or self.bodies.unfetched)

    @property
    def preparation(self) -> Preparation | None:
        """What is to be run next for them; the messages that ``done`` returns may be handed over."""
        if unbegun := dict(self.uniques.unbegun):
            some = list(unbegun.items())[: defaults.SCRIPT_ELEMENTS]
            command = unique.begin(self.keys, self.name, [(m.envelope.id, claim) for m, claim in some])
            return Preparation(command, partial(self._begun, [message for message, _ in some]))
        if due := self.bodies.next_due:
            message, ticket = due
            return Preparation(beside.fetch(self.keys, ticket), partial(self._furnished, message))
        return None

    def _begun(self, messages: list[Message], may: list[bool] | None) -> list[Message]:
        """Messages were begun; None: nobody knows of any that was replaced."""
        ready = []
        for message, allowed in zip(messages, may or [True] * len(messages), strict=True):
            if self.uniques.unbegun.pop(message, None) is None or message.lost or message.minded:
                continue
            if not allowed:  # another one has taken its place
                self.finished.append(Settle(ACK, message, results.replaced()))
            elif not self.bodies.awaits(message):
                ready.append(message)
        return ready

    def _furnished(self, message: Message, data: bytes | None) -> list[Message]:
        found = self.furnish(message, data)
        return [] if found is None else [found]

    def furnish(self, message: Message, data: bytes | None) -> Message | None:
        """The body of an unfetched message has come; None: the key is gone. Returns the message if it may be
        handed over, else None.

        Without its body it was acked by somebody else, most likely, who got it from a reaper: so the next trip
        asks for the whole list. If it is held all the same, it is dead-lettered.
        """
        if self.bodies.unfetched.pop(message, None) is None or message.lost or message.minded:
            return None
        if data is None:
            self.bodies.missing.append(message)
            return None
        try:
            message.body = decode(message.envelope.meta, data, self._codec, self._raw_codec)
        except DecodeError as error:
            self._bury_bodiless(message, error.code, str(error))
            return None
        return message

    def _bury_missing(self) -> None:
        """The server has told the whole list: what is held still has lost its body for good."""
        missing, self.bodies.missing = self.bodies.missing, []
        for message in missing:
            if not (message.lost or message.minded):
                self._bury_bodiless(message, beside.MISSING, f"there is no body at {self.bodies.key(message)}")

    def _bury_bodiless(self, message: Message, cause: str, error: str) -> None:
        note = self.death_note(message, cause, error)
        self.finished.append(Settle(BURY, message, env.join_note(note, message.element), cause))
