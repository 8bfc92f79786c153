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
from collections.abc import Callable, Iterable, Iterator
from operator import eq
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import expiry, scripts, trace
from reliq.core.codec import CODECS, Codec, decode
from reliq.core.command import Arg, Command
from reliq.core.envelope import Envelope
from reliq.core.keys import Keys
from reliq.core.memory import Memory, Remembered
from reliq.core.message import ACK, BURY, Message, Settle, Traced
from reliq.core.preparing import Preparing
from reliq.errors import DecodeError

#: The duty that a trip gives which is no sweep: fire the ticks that are due.
FIRE: Final = 3
#: Where a trip says how many acks it makes, in its arguments; what it acks comes behind that.
_ACKS: Final = 11


class Answer(NamedTuple):
    """What one trip brought. ``asked``: for how many messages it did; ``brought``: how many elements came, those
    that are left to ``take_in`` included; ``more``: whether more are ready; ``order``: what somebody wants of this
    consumer (see orders), or nothing; ``called_off``: which messages in hand somebody has cancelled since;
    ``rests``: none are ready, but of a tenant that rests, until ``due_in`` at the latest."""

    status: str
    messages: list[Message]
    lost: list[Message]
    settled: list[Settle]
    due_in: float | None
    sweep: int
    reconciled: bool
    server_ms: int
    asked: int = 0
    more: bool = False
    order: bytes = b""
    brought: int = 0
    called_off: tuple[Message, ...] = ()
    rests: bool = False


class ConsumerState(Preparing):
    """See the rules above. All times are seconds of the caller's clock; ``lease`` is seconds."""

    def __init__(
        self, keys: Keys, name: str, *, lease: float, codec: Codec, raw_codec: Codec, who: str = ""
    ) -> None:
        super().__init__(keys, name, codec, raw_codec)
        self.lease = lease
        self.who = who
        self.server = ""
        self.held: dict[bytes, Message] = {}
        self.suspects_wait = False
        #: For so many seconds nothing can be claimed here, though messages are ready: the queue is paused, or a
        #: limit of all workers is reached.
        self.shut = 0.0
        self.paused = False
        #: A hand-over may start until then: a third of the lease is certainly left.
        self.fresh_until = float("-inf")
        #: Whatever the shell wants to find from a message.
        self.owner: Any = None
        #: Steps of traced messages that the next trip writes down.
        self.steps: deque[trace.Step] = deque()
        #: Those that are held.
        self.traced: dict[bytes, Traced] = {}
        #: Messages in hand that somebody has cancelled: however they are settled, they end by it.
        self.called_off: set[Message] = set()
        #: Messages of an answer that could not be handed on; the next one brings them.
        self.left_over: list[Message] = []
        #: Messages of a group are claimed together, as many as have gathered: somebody here takes a list.
        self.whole_groups = False
        self._decode_plain = (codec if codec.name == "msgpack" else CODECS["msgpack"]).decode
        self._trip, self._epoch = 0, b""
        self._outstanding: Command | None = None
        self._acked: list[Message] = []
        self._sent: list[Settle] = []
        self._twins: dict[bytes, list[Message]] = {}
        #: The processing list is what is held, in the same order: then a number says what is acked.
        self._in_step = True
        self._incoming: list[bytes] = []
        self._incoming_at = 0.0
        self._announce = True
        self._confirmed_at: float | None = None
        self._suspects_since: float | None = None
        self._alone_here = False
        self._mode = "alone"
        self._suspects: set[bytes] = set()
        self._suspect_at = 0.0
        self._held_back = False
        self._memory = Memory()
        self._server_ms = 0
        self._ghosts: dict[bytes, Remembered] = {}

    # -- the trip ---------------------------------------------------------------------------------------

    def trip(self, want: int, now: float) -> Command:
        """The next trip, asking for up to ``want`` messages; the last one again while it is unanswered."""
        if self._outstanding is None:
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
            settled = {m.element for m in [*self._acked, *(s.message for s in self._sent)]}
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
        finished, acked, settles = self.finished, self._acked, self._sent
        if finished and finished[0] in [*acked[-1:], *settles[-1:]]:
            finished.popleft()
        room, budget = defaults.SCRIPT_ELEMENTS - len(acked) - len(settles), defaults.SCRIPT_BYTES
        if self.traced:
            room -= trace.WEIGHT * min(len(self.traced), trace.MOST)
        while finished and room > 0:
            first = finished[0]
            if isinstance(first, Message):
                size = len(first.element)
            else:
                size = len(first.message.element) + len(first.back)
            if size > budget and (acked or settles):
                break
            budget -= size
            room -= 1
            if isinstance(first, Message):
                acked.append(first)
            else:
                settles.append(first)
            finished.popleft()  # last: an interrupted one is seen to have been taken, and not forgotten
        others = [s for s in settles if s.verb != ACK]
        if len(others) > 1:
            order = {element: place for place, element in enumerate(self.held)}
            others.sort(key=lambda s: order.get(s.message.element, -1), reverse=True)
        self._sent = [s for s in settles if s.verb == ACK] + others

    def _build(self, want: int) -> Command:
        acks = self._acks()
        # Another connection may reach a server that was rolled back: then the whole list is asked for.
        asks_for_all = self._announce or bool(self.bodies.missing)
        number, named = len(acks), acks
        are_oldest = number <= len(self.held) and all(map(eq, acks, self.held))
        if number > 1 and are_oldest and self._in_step and not asks_for_all:
            number, named = -number, [acks[0], acks[-1]]
        args: list[Arg] = [
            self.name,
            self._trip + 1,
            round(self.lease * 1000),
            b"" if asks_for_all else self._epoch,
            self.in_hand + (sum(map(len, self._twins.values())) if self._twins else 0),
            min(want, defaults.SCRIPT_ELEMENTS),
            self._mode,
            -100 if self.whole_groups else 100,
            defaults.SCRIPT_BYTES,
            self.server if self._announce else "",
            self.who if self._announce else "",
            number,
            *named,
        ]
        settles = len(args)
        if self.steps or self.traced:
            args += self._words_of_steps(acks)
        traced = len(args) > settles
        for settle in self._sent[len(acks) - len(self._acked) :]:
            args += (settle.verb, settle.message.element, settle.back, settle.detail)
        bodies: list[str] = []
        if self.uniques:
            ended = [*acks, *(settle.message.element for settle in self._sent if settle.verb != ACK)]
            for id, key in self.uniques.frees(filter(self._last_of(ended), ended)):
                args += ("free", id, key, "")
        if self.bodies:
            # Another copy that is in hand needs the body still.
            off = [s.message.element for s in self._sent if s.verb != ACK and s.message in self.called_off]
            for id, key in self.bodies.drops(element for element in [*acks, *off] if element not in self._twins):
                args += ("drop", id, key, "")
                bodies.append(key)
        told: list[str] = []
        if self.results or self._sent:
            for key, words in self.results.words(self._acked, self._sent):
                args += words
                told.append(key)
        k, name = self.keys, self.name
        keys = (
            *(k.ready, k.inbox(name), k.doing(name), k.consumers, k.session(name)),
            *(k.later, k.dead, k.events, k.stats, k.uniques, k.lanes, k.turns),
            *((k.traces,) if traced or bodies or told else ()),
            *bodies,
            *told,
        )
        return Command(scripts.trip, keys, tuple(args), idempotent=True, queue=k.queue)

    def _acks(self) -> list[bytes]:
        """The elements that this trip acks: those for whose answer nobody waits come first."""
        acks = [message.element for message in self._acked]
        return acks + [settle.message.element for settle in self._sent if settle.verb == ACK]

    def _last_of(self, ended: list[bytes]) -> Callable[[bytes], bool]:
        """Whether no equal message stays in hand when all of these have gone."""
        return lambda element: ended.count(element) > len(self._twins.get(element, ()))

    def _words_of_steps(self, acks: Iterable[bytes]) -> Iterator[Arg]:
        """What this trip writes down of traced messages: what has happened, and what it acks."""
        for _ in range(min(len(self.steps), 2 * trace.MOST)):
            step = self.steps.popleft()
            yield from ("trace", step.id, step.event, step.words)
        for message in filter(None, map(self.traced.get, acks)):
            yield from ("trace", message.id, trace.ACK, message.took_ms)

    def answered(self, reply: list[Any], sent_at: float, *, look: bool = True) -> Answer:
        """Digest the answer; ``sent_at`` is when the answered copy was sent, by the caller's clock. If that is
        interrupted (KeyboardInterrupt), the trip is unanswered still, and is sent and digested again.

        ``look=False``: what was claimed may be left to ``take_in``: so the next trip can be under way by then.
        """
        status = reply[0].decode()
        assert self._outstanding is not None
        number, asked = self._outstanding.args[1], self._outstanding.args[5]
        announced = self._outstanding.args[9] == self.server
        assert isinstance(number, int)
        assert isinstance(asked, int)
        self._server_ms = int(reply[1])
        self._trip = number  # not when it was made: an interrupted one leaves no gap
        if status in ("dead", "stale"):
            return self._disowned(status, int(reply[1]))
        self._announce = self._announce and not announced
        if int(reply[11]) < self._trip - 1:
            self._forgotten()
        self._epoch = reply[2]
        left = self.take_in()  # by somebody who was interrupted: before the list is compared with what is held
        settled = self._settled(set(reply[3])) if self._acked or self._sent else []
        freed = self._untwin(sent_at) if self._twins else []  # before more like them come, or they are lost
        lost, fresh = self._reconcile(reply[9]) if reply[4] else ([], reply[9])
        if self.bodies.missing and reply[4]:
            self._bury_missing()
        # Only now: what is lost is marked, and handlers look at both.
        self._confirmed_at, self.fresh_until = sent_at, sent_at + self.lease * 2 / 3
        messages = [m for m in (*left, *freed) if not m.lost]
        # A suspect, which changes what may be asked for next, is claimed alone.
        if look or reply[4] or self._twins or len(fresh) < 2:
            messages += self._take_in(fresh, sent_at, verified=not reply[4])
        else:
            self._incoming, self._incoming_at = fresh, sent_at
        self._note_suspects(reply[5], int(reply[6]), sent_at)
        if status == "ok":
            self._note_gate(reply[5])
        self._acked, self._sent, self._outstanding = [], [], None
        due = int(reply[7])
        called_off = self._call_off(reply[13]) if len(reply) > 13 else ()
        return Answer(
            status, messages, lost, settled, None if due < 0 else due / 1000, int(reply[8]), bool(reply[4]),
            int(reply[1]), asked, reply[10] > 0, reply[12] if len(reply) > 12 else b"", len(fresh), called_off,
            reply[10] < 0,
        )  # fmt: skip

    def _call_off(self, ids: bytes) -> tuple[Message, ...]:
        """Those of these that are held, and were not known to be cancelled."""
        told = set(ids.split(b" "))
        found = [m for e, m in self.held.items() if e[env.CHECKED_FROM : env.META_FROM].hex().encode() in told]
        fresh = tuple(message for message in found if message not in self.called_off)
        self.called_off.update(fresh)
        for message in fresh:
            if not message.minded and (message in self.uniques.unbegun or message in self.bodies.unfetched):
                self.finished.append(self.release(message))  # nobody waits for it any more
        return fresh

    def _settled(self, late: set[int]) -> list[Settle]:
        """The settles of the answered trip, and of its bare acks those that came too late."""
        self._let_go()
        elements = [message.element for message in self._acked]
        settled = []
        if late:
            settled = [Settle(ACK, self._acked[i]) for i in sorted(late) if i < len(elements)]
            for refused in settled:
                refused.accepted, refused.message.lost = False, True
            elements = [element for i, element in enumerate(elements) if i not in late]
        self._memory.acked(elements)
        for index, settle in enumerate(self._sent, len(self._acked)):
            settle.accepted = index not in late
            if settle.accepted:
                self._memory.settled(settle.message.element, (settle.verb, settle.back, settle.detail))
            else:
                settle.message.lost = True
            settled.append(settle)
        return settled

    def _let_go(self) -> None:
        """What the answered trip has settled is not held any more, accepted or not."""
        held, messages = self.held, self._acked
        if self._sent:
            messages = [*messages, *(settle.message for settle in self._sent)]
        for message in messages:
            if held.get(message.element) is message:
                del held[message.element]
        if not (held or self._twins):
            self._in_step = True
        if self._suspects:
            self._suspects.difference_update([message.element for message in messages])
        if self.traced or self.bodies or self.uniques or self.results or self.called_off:
            for message in messages:
                self._forget(message)

    def _forget(self, message: Message) -> None:
        """What only some messages have."""
        self.traced.pop(message.element, None)
        self.bodies.forget(message)
        self.uniques.forget(message)
        self.results.forget(message)
        self.called_off.discard(message)

    def _reconcile(self, listed: list[bytes]) -> tuple[list[Message], list[bytes]]:
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
            del self.held[message.element]
            self._forget(message)
            self._suspects.discard(message.element)
            self._twins.pop(message.element, None)
        self._in_step = [*self.held, *unknown] == listed
        return lost, unknown

    def take_in(self) -> list[Message]:
        """The messages that ``answered`` has left to be looked into."""
        elements, self._incoming = self._incoming, []
        left_over, self.left_over = self.left_over, []
        left_over = [m for m in left_over if not (m.lost or m.minded)]
        return left_over + self._take_in(elements, self._incoming_at, verified=True)

    def _take_in(self, elements: Iterable[bytes], now: float, *, verified: bool) -> list[Message]:
        """The messages of elements, and what else there is to know of them; ``verified``: the script has just seen
        (or made) their checksums."""
        held, decode_plain = self.held, self._decode_plain
        messages = []
        for element in elements:
            message = None
            if verified and (encoded := env.plain_body(element)) is not None:
                try:
                    message = Message(element, decode_plain(encoded), self)
                except Exception:  # noqa: BLE001 - what is wrong with it is told by the other way to read it
                    message = None
            if message is None and (message := self._read(element, verified=verified)) is None:
                continue
            if element in held:  # byte-identical to one in hand: its turn comes when that is settled
                self._twins.setdefault(element, []).append(message)
                self._in_step = False
                continue
            held[element] = message
            if self._ghosts and element[: env.META_FROM] in self._ghosts:
                self._settle_again(message)
                continue
            if element[env.LOST_AT]:
                self._hold_suspect(element, now)
            if message.known is None or not self._awaits(message):
                messages.append(message)
        return messages

    def _hold_suspect(self, element: bytes, now: float) -> None:
        self._suspects.add(element)
        self._suspect_at = now

    def _read(self, element: bytes, *, verified: bool) -> Message | None:
        """Any element; None if it cannot be read, and is buried for that."""
        try:
            envelope = env.unpack(element, verified=verified)
            body, has_ticket = None, self._expect(element, envelope.meta) is not None
            if element[: env.META_FROM] not in self._ghosts:  # else it was settled in time
                expiry.check(envelope.meta, self._server_ms)
            if not has_ticket:
                body = decode(envelope.meta, envelope.body, self._codec, self._raw_codec)
        except DecodeError as error:
            self._bury_unread(element, error)
            return None
        return (Traced if trace.is_traced(envelope.meta) else Message)(element, body, self, envelope)

    def _settle_again(self, message: Message) -> None:
        """It was settled, and then the server forgot that: the same settle, and no second delivery."""
        verb, back, detail = self._ghosts[message.element[: env.META_FROM]]
        self.finished.append(Settle(verb, message, back, detail))

    def _untwin(self, now: float) -> list[Message]:
        """The twins of what this trip has settled: their turn has come, unless they were settled by it, too."""
        freed = []
        settled = [*self._acked, *(settle.message for settle in self._sent)]
        self._forget_twins(settled)
        for done in settled:
            if done.element in self.held or not (twins := self._twins.pop(done.element, None)):
                continue
            message = twins.pop()
            self.held[message.element] = message
            if twins:
                self._twins[message.element] = twins
            if message.minded:  # it cannot be read, and its settle is made
                continue
            if message.suspect:
                self._hold_suspect(message.element, now)
            self._expect(message.element, message.envelope.meta)
            if not self._awaits(message):
                freed.append(message)
        return freed

    def _forget_twins(self, settled: Iterable[Message]) -> None:
        """Those among them that were settled while an equal one was held."""
        for message in settled:
            twins = self._twins.get(message.element, [])
            if message in twins:
                twins.remove(message)
                if not twins:
                    del self._twins[message.element]

    def _bury_unread(self, element: bytes, error: DecodeError) -> None:
        """Dead-letter what cannot be read, as it is, so that a later release can revive it."""
        id = env.named_id(f"{self.name}:{self._trip}:{len(self.held)}:{len(self.finished)}")
        if env.is_envelope(element):
            id = element[23:39]
        message = Message(element, None, self, Envelope(element, id, 0, 0, 0, 0, {}, b""))
        note = self.death_note(message, error.code, str(error))
        if element in self.held:
            self._twins.setdefault(element, []).append(message)
            self._in_step = False
        else:
            self.held[element] = message
        self.finished.append(Settle(BURY, message, env.join_note(note, element), error.code))

    def _note_suspects(self, kept: int, others: int, now: float) -> None:
        waiting = kept == 1
        # What waits behind a suspect in our hands would ring the bell, again and again.
        self.suspects_wait = waiting or self._held_back
        if kept < 0 and self.in_hand:  # a pause or a limit hides them, if there are any
            return
        if not waiting or not self.in_hand:
            self._suspects_since = None
        elif self._suspects_since is None:
            self._suspects_since = now
        if waiting:
            self._alone_here = others == 0

    def _note_gate(self, kept: int) -> None:
        """Why messages stay behind, as a trip tells."""
        self.paused = kept == -1
        self.shut = defaults.PAUSE_LOOK if self.paused else max(0, -kept - 1) / 1000

    def _disowned(self, status: str, server_ms: int) -> Answer:
        """The name is dead: whatever we hold is somebody else's now."""
        self.take_in()
        lost = list(self.held.values())
        for message in lost:
            message.lost = True
        settled = [Settle(ACK, message) for message in self._acked] + self._sent
        for settle in settled:
            settle.accepted, settle.message.lost = False, True
        self.held.clear()
        self.traced.clear()
        self.bodies.clear()
        self.uniques.clear()
        self.results.clear()
        self.called_off.clear()
        self._suspects.clear()
        self._twins.clear()
        self._in_step = True
        self._acked, self._sent, self._outstanding = [], [], None
        return Answer(status, [], lost, settled, None, 0, True, server_ms)

    def refused(self) -> None:
        """The unanswered trip was not executed: the next one says the same, and what has come up since."""
        self._outstanding = None

    def spell(self, reply: list[Any]) -> None:
        """It was not executed, since the list there is another one than it seemed: it is made again as it was, but
        names all of its acks. OutcomeUnknown if it has done so: then this is no reply to it."""
        trip = self._outstanding
        assert trip is not None
        if int(trip.args[_ACKS]) >= 0:
            raise trip.nonsense(reply)
        acks = self._acks()
        self._outstanding = trip._replace(args=(*trip.args[:_ACKS], len(acks), *acks, *trip.args[_ACKS + 3 :]))
        self._in_step = False

    # -- what the shell asks ----------------------------------------------------------------------------

    @property
    def unanswered(self) -> bool:
        """Whether a trip was sent whose answer is not known yet."""
        return self._outstanding is not None

    def awaits(self, command: Command) -> bool:
        """Whether this trip is the unanswered one."""
        return self._outstanding is command

    @property
    def in_hand(self) -> int:
        """How many messages were claimed and are not settled."""
        return len(self.held) + len(self._incoming)

    @property
    def under_way(self) -> int:
        """How many settles the unanswered trip carries."""
        return len(self._acked) + len(self._sent)

    def unsettled(self) -> list[Message]:
        """What is held and has no settle under way, in the order it was claimed."""
        self.take_in()
        owed = [*self.finished, *self._acked, *self._sent]
        settling = {(entry if isinstance(entry, Message) else entry.message).element for entry in owed}
        return [message for element, message in list(self.held.items()) if element not in settling]

    def in_order(self, messages: list[Message]) -> list[Message]:
        """These as they were claimed."""
        place = {id(message): n for n, message in enumerate(self.held.values())}
        return sorted(messages, key=lambda message: place.get(id(message), -1))

    def fresh(self, now: float) -> bool:
        """Whether a hand-over may start: at least a third of the lease is certainly left."""
        return now < self.fresh_until

    def lease_is_certain(self, now: float) -> bool:
        """Whether the lease cannot be over yet, whatever Redis does not tell us."""
        return self._confirmed_at is not None and now < self._confirmed_at + self.lease

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
            self._forgotten()
        self.server = server

    def _forgotten(self) -> None:
        """The server may not know any more what we settled: what reappears is settled again, and not run."""
        self._ghosts = self._memory.recall()

    def rename(self, name: str) -> None:
        """Go on under a new name after the old one was declared dead."""
        self.name = name
        self._trip, self._epoch = 0, b""
        self._announce, self._confirmed_at, self.fresh_until = True, None, float("-inf")

    def knows(self, settle: Settle) -> bool:
        """Whether it is made, or will be."""
        return settle.accepted is not None or settle in list(self.finished) or settle in self._sent
