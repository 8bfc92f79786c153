"""One consumer as a pure state machine: what it holds, what it owes Redis, and what the next trip says.

Rules, before any code:

1. At most one trip is unanswered. Until its answer is known it is sent again, unchanged: the server
   recognises the number and repeats the answer. Nothing is therefore ever settled or claimed twice.
2. ``held`` is what we believe stands in our processing list. The server checks that belief in every trip
   (length and reap epoch) and sends the whole list when it is wrong: then what we did not know about is
   delivered, and what is no longer there is lost (its handler is told; its settle will be refused).
3. The lease counts from *sending* the last confirmed trip, by a clock that goes on through suspend. A
   message is handed over only while ``fresh`` holds.
4. A message that a consumer died with (a suspect) is handed out alone: nothing else in hand. Where that
   would strand it, it runs beside others, but never beside another suspect.
5. Undecodable messages never leave here: they are buried by the next trip, with the reason.

The shells own sockets, clocks and threads; they serialise calls (one trip at a time), except that
``finished.append`` may come from any thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import scripts
from reliq.core.codec import Codec, decode
from reliq.core.command import Arg, Command
from reliq.core.envelope import Envelope
from reliq.core.keys import Keys
from reliq.errors import DecodeError

ACK, RETRY, RELEASE, BURY = "ack", "retry", "release", "bury"
#: At least so many of the last settles (or bytes of them) are remembered, to recognise what a server's
#: rollback brings back.
_REMEMBERED: Final = 5_000
_REMEMBERED_BYTES: Final = 8 * 1024 * 1024


class Message:
    """A claimed message: its envelope and its decoded body. ``lost`` turns True when the lease is gone, ``minded``
    when somebody has it in hand, who will settle it, or when it is being settled."""

    __slots__ = ("body", "envelope", "lost", "minded")

    def __init__(self, envelope: Envelope, body: Any) -> None:
        self.envelope = envelope
        self.body = body
        self.lost = False
        self.minded = False

    @property
    def suspect(self) -> bool:
        """Whether a consumer has died with this message."""
        return self.envelope.lost > 0


class Settle:
    """One thing to tell Redis about a message, and, after the trip, whether it was accepted."""

    __slots__ = ("accepted", "back", "detail", "message", "on_settled", "verb")

    def __init__(
        self,
        verb: str,
        message: Message,
        back: bytes = b"",
        detail: Arg = "",
        on_settled: Callable[[Settle], None] | None = None,
    ) -> None:
        self.verb = verb
        self.message = message
        message.minded = True
        self.back = back
        self.detail = detail
        self.accepted: bool | None = None
        self.on_settled = on_settled


#: What a settle said: verb, element that went back, detail.
Remembered = tuple[str, bytes, Arg]


class Answer(NamedTuple):
    """What one trip brought."""

    status: str
    messages: list[Message]
    lost: list[Message]
    settled: list[Settle]
    due_in: float | None
    sweep: int
    reconciled: bool
    server_ms: int


class ConsumerState:
    """See the rules above. All times are seconds of the caller's clock; ``lease`` is seconds."""

    def __init__(
        self, keys: Keys, name: str, *, lease: float, codec: Codec, raw_codec: Codec, who: str = ""
    ) -> None:
        self.keys = keys
        self.name = name
        self.lease = lease
        self.who = who
        self.server = ""
        self.held: dict[bytes, Message] = {}
        self.finished: deque[Settle] = deque()
        self.suspects_wait = False
        self._codec, self._raw_codec = codec, raw_codec
        self._trip, self._epoch = 0, b""
        self._outstanding: Command | None = None
        self._sent: list[Settle] = []
        self._twins: dict[bytes, list[Message]] = {}
        self._announce = True
        self._confirmed_at: float | None = None
        self._suspects_since: float | None = None
        self._alone_here = False
        self._mode = "alone"
        self._suspects: set[bytes] = set()
        self._suspect_at = 0.0
        self._held_back = False
        self._recent: dict[bytes, Remembered] = {}
        self._older: dict[bytes, Remembered] = {}
        self._ghosts: dict[bytes, Remembered] = {}
        self._recent_bytes = 0
        self._notes = count(1)

    # -- the trip ---------------------------------------------------------------------------------------

    def trip(self, want: int, now: float) -> Command:
        """The next trip, asking for up to ``want`` messages; the last one again while it is unanswered."""
        if self._outstanding is None:
            self._trip += 1
            self._take_finished()
            self._mode = self._suspects_mode(now)
            free = self._free(want, now)
            self._held_back = free < want
            self._outstanding = self._build(free)
        return self._outstanding

    def _free(self, want: int, now: float) -> int:
        """Holding a suspect means holding nothing else, until it is settled; but if it takes longer than a
        lease (it hangs?), the work behind it goes on beside it."""
        if self._suspects and now - self._suspect_at < self.lease:
            settled = {s.message.envelope.element for s in self._sent}
            if not self._suspects <= settled:
                return 0
        return max(0, want)

    def _suspects_mode(self, now: float) -> str:
        """How to treat suspects at the head of the queue: wait for empty hands; if they do not become empty
        within a second, leave them to others; if nobody takes them within a lease, or there is nobody
        else, take one beside what is in hand here: a suspect must not strand (DESIGN 9.12). Never two
        at a time, so that a message which once was beside a poisonous one is not beside it again."""
        if self._suspects_since is None:
            return "alone"
        waited = now - self._suspects_since
        if waited < defaults.SUSPECT_PATIENCE:
            return "alone"
        mine_is_stuck = not self._suspects or now - self._suspect_at > self.lease
        return "beside" if mine_is_stuck and (self._alone_here or waited > self.lease) else "decline"

    def _take_finished(self) -> None:
        """What is settled by this trip: bounded, acks first, releases newest first (they go to the head). An
        interruption here (KeyboardInterrupt) leaves what was taken to the next call."""
        batch, size = self._sent, 0
        while self.finished and len(batch) < defaults.SCRIPT_ELEMENTS:
            size += len(self.finished[0].message.envelope.element) + len(self.finished[0].back)
            if batch and size > defaults.SCRIPT_BYTES:
                break
            batch.append(self.finished.popleft())
        acks = [s for s in batch if s.verb == ACK]
        others = [s for s in batch if s.verb != ACK]
        if len(others) > 1:
            order = {element: place for place, element in enumerate(self.held)}
            others.sort(key=lambda s: order.get(s.message.envelope.element, -1), reverse=True)
        self._sent = acks + others

    def _build(self, want: int) -> Command:
        acks = [s.message.envelope.element for s in self._sent if s.verb == ACK]
        args: list[Arg] = [
            self.name,
            self._trip,
            round(self.lease * 1000),
            # Another connection may reach a server that was rolled back: then the whole list is asked for.
            b"" if self._announce else self._epoch,
            len(self.held) + sum(map(len, self._twins.values())),
            min(want, defaults.SCRIPT_ELEMENTS),
            self._mode,
            100,
            defaults.SCRIPT_BYTES,
            self.server if self._announce else "",
            self.who if self._announce else "",
            len(acks),
            *acks,
        ]
        for settle in self._sent[len(acks) :]:
            args += (settle.verb, settle.message.envelope.element, settle.back, settle.detail)
        k, name = self.keys, self.name
        keys = (
            *(k.ready, k.inbox(name), k.doing(name), k.consumers, k.session(name)),
            *(k.later, k.dead, k.events, k.stats),
        )
        return Command(scripts.trip, keys, tuple(args), idempotent=True, queue=k.queue)

    def answered(self, reply: list[Any], sent_at: float) -> Answer:
        """Digest the answer; ``sent_at`` is when the answered copy was sent, by the caller's clock. If that is
        interrupted (KeyboardInterrupt), the trip is unanswered still, and is sent and digested again."""
        status = reply[0].decode()
        sent = self._sent
        announced = self._outstanding is not None and self._outstanding.args[9] == self.server
        if status in ("dead", "stale"):
            self._sent, self._outstanding = [], None
            return self._disowned(status, sent, int(reply[1]))
        self._announce = self._announce and not announced
        self._epoch = reply[2]
        self._settled(sent, set(reply[3]))
        lost, fresh = self._reconcile(reply[9]) if reply[4] else ([], reply[9])
        self._confirmed_at = sent_at  # only now: what is lost is marked, and handlers look at both
        messages = self._take_in(fresh, sent_at)
        messages += self._untwin(sent)
        self._note_suspects(bool(reply[5]), int(reply[6]), sent_at)
        self._sent, self._outstanding = [], None
        due = int(reply[7])
        return Answer(
            status, messages, lost, sent, None if due < 0 else due / 1000, int(reply[8]), bool(reply[4]),
            int(reply[1]),
        )  # fmt: skip

    def _settled(self, sent: list[Settle], late: set[int]) -> None:
        held = self.held
        for index, settle in enumerate(sent):
            element = settle.message.envelope.element
            settle.accepted = index not in late
            if held.get(element) is settle.message:
                del held[element]
                self._suspects.discard(element)
            if settle.accepted:
                self._remember(settle)
            else:
                settle.message.lost = True

    def _remember(self, settle: Settle) -> None:
        """Only what tells when it was put is unique; an id of the user's own may otherwise be put again, byte
        for byte, and then it must be delivered."""
        envelope = settle.message.envelope
        if env.put_ms(envelope) is None:
            return
        self._recent[envelope.element[: env.META_FROM]] = (settle.verb, settle.back, settle.detail)
        self._recent_bytes += len(settle.back)
        if len(self._recent) >= _REMEMBERED or self._recent_bytes >= _REMEMBERED_BYTES:
            self._recent, self._older, self._recent_bytes = {}, self._recent, 0

    def _reconcile(self, listed: Iterable[bytes]) -> tuple[list[Message], list[bytes]]:
        """Compare belief with the whole list: (what we held and is gone, what is there and we did not know)."""
        unknown, present = [], set()
        for element in listed:
            if element in self.held and element not in present:
                present.add(element)
            elif len(self._twins.get(element, ())) == 0:
                unknown.append(element)
        lost = [m for e, m in self.held.items() if e not in present]
        for message in lost:
            message.lost = True
            del self.held[message.envelope.element]
            self._suspects.discard(message.envelope.element)
            self._twins.pop(message.envelope.element, None)
        return lost, unknown

    def _take_in(self, elements: Iterable[bytes], now: float) -> list[Message]:
        messages = []
        for element in elements:
            try:
                envelope = env.unpack(element)
                body = decode(envelope.meta, envelope.body, self._codec, self._raw_codec)
            except DecodeError as error:
                self._bury_unread(element, error)
                continue
            message = Message(envelope, body)
            if element in self.held:  # byte-identical to one in hand: its turn comes when that is settled
                self._twins.setdefault(element, []).append(message)
                continue
            self.held[element] = message
            if self._ghosts and element[: env.META_FROM] in self._ghosts:
                self._settle_again(message)
                continue
            if message.suspect:
                self._suspects.add(element)
                self._suspect_at = now
            messages.append(message)
        return messages

    def _settle_again(self, message: Message) -> None:
        """It was settled, and then the server forgot that: the same settle, and no second delivery."""
        verb, back, detail = self._ghosts[message.envelope.element[: env.META_FROM]]
        self.finished.append(Settle(verb, message, back, detail))

    def _untwin(self, sent: list[Settle]) -> list[Message]:
        if not self._twins:
            return []
        freed = []
        for settle in sent:
            twins = self._twins.get(settle.message.envelope.element)
            if twins:
                message = twins.pop()
                self.held[message.envelope.element] = message
                freed.append(message)
                if not twins:
                    del self._twins[message.envelope.element]
        return freed

    def _bury_unread(self, element: bytes, error: DecodeError) -> None:
        """Dead-letter what cannot be read, as it is, so that a later release can revive it."""
        id = env.named_id(f"{self.name}:{self._trip}:{len(self.held)}:{len(self.finished)}")
        if env.is_envelope(element):
            id = element[23:39]
        message = Message(Envelope(element, id, 0, 0, 0, 0, {}, b""), None)
        note = self.death_note(message, error.code, str(error))
        self.held[element] = message
        self.finished.append(Settle(BURY, message, env.join_note(note, element), error.code))

    def _note_suspects(self, waiting: bool, others: int, now: float) -> None:
        # What waits behind a suspect in our hands would ring the bell, again and again.
        self.suspects_wait = waiting or self._held_back
        if not waiting or not self.held:
            self._suspects_since = None
        elif self._suspects_since is None:
            self._suspects_since = now
        if waiting:
            self._alone_here = others == 0

    def _disowned(self, status: str, sent: list[Settle], server_ms: int) -> Answer:
        """The name is dead: whatever we hold is somebody else's now."""
        lost = list(self.held.values())
        for message in lost:
            message.lost = True
        for settle in sent:
            settle.accepted, settle.message.lost = False, True
        self.held.clear()
        self._suspects.clear()
        self._twins.clear()
        return Answer(status, [], lost, sent, None, 0, True, server_ms)

    # -- what the shell asks ----------------------------------------------------------------------------

    @property
    def unanswered(self) -> bool:
        """Whether a trip was sent whose answer is not known yet."""
        return self._outstanding is not None

    def unsettled(self) -> list[Message]:
        """What is held and has no settle under way, in the order it was claimed."""
        settling = {s.message.envelope.element for s in [*self.finished, *self._sent]}
        return [message for element, message in list(self.held.items()) if element not in settling]

    def fresh(self, now: float) -> bool:
        """Whether a hand-over may start: at least a third of the lease is certainly left."""
        return self._confirmed_at is not None and now - self._confirmed_at < self.lease * 2 / 3

    def lease_left(self, now: float) -> float:
        """Seconds for which the lease is certainly still ours (negative: it may be over)."""
        return -1.0 if self._confirmed_at is None else self._confirmed_at + self.lease - now

    def renew_in(self, now: float) -> float:
        """Seconds until a trip is due to keep the lease."""
        if self._confirmed_at is None:
            return 0.0
        return self._confirmed_at + self.lease / defaults.RENEW_SHARE - now

    def reconnected(self, server: str) -> None:
        """A new connection: announce ourselves again; another run id means that the server may have
        forgotten things, so remember what we settled and do not run it again (DESIGN 9.2)."""
        self._announce = True
        if self.server and server != self.server:
            self._ghosts = {**self._older, **self._recent}
        self.server = server

    def rename(self, name: str) -> None:
        """Go on under a new name after the old one was declared dead."""
        self.name = name
        self._trip, self._epoch = 0, b""
        self._announce, self._confirmed_at = True, None

    def knows(self, settle: Settle) -> bool:
        """Whether it is made, or will be."""
        return settle.accepted is not None or settle in list(self.finished) or settle in self._sent

    # -- making settles ---------------------------------------------------------------------------------

    def ack(self, message: Message) -> Settle:
        """Done: remove it."""
        return Settle(ACK, message)

    def retry(self, message: Message, delay: float, error: str) -> Settle:
        """Failed: come back in ``delay`` seconds, with the last failure written into the message."""
        meta = {**message.envelope.meta, "e": env.storable(error[:200])}
        return Settle(RETRY, message, env.bump(message.envelope, failed=1, meta=meta), round(delay * 1000))

    def release(self, message: Message, *, handled: bool = False) -> Settle:
        """Put back at the head, unprocessed. ``handled``: it had reached a handler."""
        return Settle(RELEASE, message, env.bump(message.envelope, released=int(handled)))

    def release_later(self, message: Message, delay: float) -> Settle:
        """Put back by its handler's own wish, in ``delay`` seconds; counts no failure."""
        return Settle(RETRY, message, env.bump(message.envelope, released=1), round(delay * 1000))

    def bury(self, message: Message, cause: str, error: str, traceback: str = "", *, failed: int = 0) -> Settle:
        """Dead-letter it, with what is known about why."""
        note = self.death_note(message, cause, error, traceback)
        back = env.join_note(note, env.bump(message.envelope, failed=failed))
        return Settle(BURY, message, back, note["cause"])

    def death_note(self, message: Message, cause: str, error: str, traceback: str = "") -> env.Meta:
        """What ``dead`` keeps beside the element; ``at`` is the score of the member, server ms."""
        id, error = message.envelope.id.hex(), env.storable(error[:500])
        note: env.Meta = {"id": id, "cause": env.storable(str(cause)), "worker": self.name, "error": error}
        note["n"] = next(self._notes)  # equal members of a sorted set are one, equal messages are several
        if traceback:
            note["traceback"] = env.storable(traceback[-defaults.TRACEBACK :])
        return note
