"""ConsumerState joined with a model of the server: what it hands out, settles, loses and repeats."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack
import pytest

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.codec import CODECS
from reliq.core.command import Command
from reliq.core.consumer import Answer, ConsumerState
from reliq.core.keys import Keys
from reliq.core.message import ACK, Message, Settle
from tests.core.model import BELL, Model

KEYS = Keys("q")
LEASE = 15.0


def element(number: int, body: Any = None, **counters: int) -> bytes:
    id = env.uuid7(1_700_000_000_000, number.to_bytes(10, "big"))
    return env.pack(id, msgpack.packb(number if body is None else body), **counters)


def elements(count: int) -> list[bytes]:
    return [element(n) for n in range(count)]


class Pair:
    """A consumer and its server; ``now`` is the consumer's clock in seconds."""

    def __init__(self, server: Model | None = None, name: str = "a") -> None:
        self.server = server or Model()
        self.state = ConsumerState(
            KEYS, name, lease=LEASE, codec=CODECS["msgpack"], raw_codec=CODECS["json"], who="me"
        )
        self.now = 100.0

    def trip(self, want: int = 10, *settles: Settle) -> Answer:
        self.state.finished.extend(settles)
        reply = self.server.run(self.state.trip(want, self.now))
        return self.state.answered(reply, self.now)

    def lose_reply(self, want: int = 10, *settles: Settle) -> Command:
        """The trip runs, and its reply never comes."""
        self.state.finished.extend(settles)
        command = self.state.trip(want, self.now)
        self.server.run(command)
        return command

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.server.now += round(seconds * 1000)

    @property
    def doing(self) -> list[bytes]:
        return self.server.doing[self.state.name]


def bodies(messages: Iterable[Message]) -> list[Any]:
    return [m.body for m in messages]


def acks(state: ConsumerState, messages: Sequence[Message]) -> list[Settle]:
    return [state.ack(m) for m in messages]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_claims_oldest_first_and_acks(pair: Pair) -> None:
    """Messages come in the order of their puts, no more than asked for, and acks remove them."""
    pair.server.put(*elements(5))
    first = pair.trip(3)
    assert bodies(first.messages) == [0, 1, 2]
    second = pair.trip(3, *acks(pair.state, first.messages))
    assert [s.accepted for s in second.settled] == [True] * 3
    assert bodies(second.messages) == [3, 4]
    third = pair.trip(3, *acks(pair.state, second.messages))
    assert (third.messages, pair.doing, pair.state.held) == ([], [], {})


def test_unanswered_trip_is_repeated_unchanged(pair: Pair) -> None:
    """Until its answer is known the very same trip is sent: later settles and wishes wait."""
    pair.server.put(*elements(2))
    [message] = pair.trip(1).messages
    sent = pair.lose_reply(1, pair.state.ack(message))
    pair.state.finished.append(pair.state.ack(message))
    assert pair.state.unanswered
    assert pair.state.trip(99, pair.now + 1) is sent


@pytest.mark.parametrize("ran", [True, False])
def test_lost_trip(pair: Pair, ran: bool) -> None:
    """Whether the server ran a lost trip or not, the repeat settles once and brings what was claimed."""
    pair.server.put(*elements(4))
    [first, second] = pair.trip(2).messages
    settles = [pair.state.ack(first), pair.state.retry(second, 60, "no")]
    if ran:
        pair.lose_reply(2, *settles)
    else:
        pair.state.finished.extend(settles)
        pair.state.trip(2, pair.now)
    answer = pair.trip(2)
    assert [s.accepted for s in answer.settled] == [True, True]
    assert bodies(answer.messages) == [2, 3]
    assert len(pair.server.later) == 1
    assert answer.lost == []
    assert answer.status == ("again" if ran else "ok")


def test_late_settle_of_a_lost_trip_stays_late(pair: Pair) -> None:
    """A repeat gives the same verdict on each settle as the first time."""
    pair.server.put(*elements(2))
    good, gone = pair.trip(2).messages
    pair.doing.remove(gone.envelope.element)
    pair.lose_reply(0, *acks(pair.state, [gone, good]))
    answer = pair.trip(0)
    assert [(s.message.body, s.accepted) for s in answer.settled] == [(1, False), (0, True)]
    assert gone.lost
    assert not good.lost


def test_ghost_of_an_old_trip_changes_nothing(pair: Pair) -> None:
    """A closed connection's command that runs late is recognised by its number."""
    pair.server.put(*elements(4))
    old = pair.lose_reply(1)
    [first] = pair.trip(1).messages
    pair.trip(1, pair.state.ack(first))
    before = (list(pair.server.ready), list(pair.doing))
    assert pair.server.run(old)[0] == b"stale"
    assert (pair.server.ready, pair.doing) == before


def test_counters_go_back_with_the_message(pair: Pair) -> None:
    """Retry counts a failure and keeps the error; release after a handler counts a release; each return
    gives a larger fence."""
    pair.server.put(element(1))
    [m] = pair.trip().messages
    pair.trip(0, pair.state.retry(m, 0, "ValueError: no"))
    pair.pass_time(0.001)
    [m] = pair.trip().messages
    assert (m.envelope.attempt, m.envelope.fence, m.envelope.meta["e"]) == (2, 2, "ValueError: no")
    pair.trip(0, pair.state.release(m, handled=True))
    [m] = pair.trip().messages
    assert (m.envelope.attempt, m.envelope.fence, m.envelope.deliveries) == (2, 3, 3)
    pair.trip(0, pair.state.release(m))
    [m] = pair.trip().messages
    assert (m.envelope.attempt, m.envelope.fence, m.envelope.deliveries) == (2, 4, 3)
    pair.trip(0, pair.state.bury(m, "BURIED", "enough", "Traceback…", failed=1))
    [(member, _)] = pair.server.dead.items()
    note, back = env.split_note(member)
    assert (note["cause"], note["error"], note["traceback"]) == ("BURIED", "enough", "Traceback…")
    assert (env.unpack(back).failed, env.unpack(back).fence) == (2, 5)


def test_releases_keep_the_order(pair: Pair) -> None:
    """What is given back stands at the head in the order of the claims, however it was finished."""
    pair.server.put(*elements(6))
    messages = pair.trip(4).messages
    shuffled = [messages[i] for i in (2, 0, 3, 1)]
    pair.trip(0, *(pair.state.release(m) for m in shuffled))
    assert bodies(pair.trip(6).messages) == [0, 1, 2, 3, 4, 5]


def test_settles_are_bounded(pair: Pair) -> None:
    """One trip settles no more than one script may: by number and by bytes, and one larger alone."""
    pair.server.put(*(element(n) for n in range(1000)), element(1000))
    first = pair.trip(1000).messages
    second = pair.trip(1).messages
    assert len(pair.trip(0, *acks(pair.state, first + second)).settled) == defaults.SCRIPT_ELEMENTS
    assert len(pair.trip(0).settled) == 1
    size = defaults.SCRIPT_BYTES // 2
    pair.server.put(*(element(n, bytes(size)) for n in range(3)), element(9, bytes(3 * size)))
    held = [m for _ in range(4) for m in pair.trip(1).messages]
    assert [len(pair.trip(0, *(acks(pair.state, held) if n == 0 else [])).settled) for n in range(4)] == [1] * 4


# -- reconciling --------------------------------------------------------------------------------------------


def test_held_but_absent_is_lost(pair: Pair) -> None:
    """A reap while we were silent: the handler is told, its settle is refused, nothing is handed out twice."""
    pair.server.put(*elements(2))
    messages = pair.trip(2).messages
    pair.server.reap("a")
    answer = pair.trip(0)
    assert (answer.reconciled, bodies(answer.lost)) == (True, [0, 1])
    assert all(m.lost for m in messages)
    late = pair.trip(0, pair.state.ack(messages[0]))
    assert [s.accepted for s in late.settled] == [False]
    again = pair.trip(1).messages
    assert [(m.body, m.envelope.fence, m.envelope.lost) for m in again] == [(0, 2, 1)]


def test_present_but_unknown_is_delivered(pair: Pair) -> None:
    """What stands in our list and was never handed out is handed out at the next trip."""
    pair.server.put(*elements(1))
    pair.trip(1)
    pair.doing.append(element(7))
    answer = pair.trip(0)
    assert (bodies(answer.messages), answer.lost) == ([7], [])


def test_equal_length_hides_no_swap(pair: Pair) -> None:
    """One reaped and one stranded leave the length as it was; the reap epoch gives it away."""
    pair.server.put(element(1))
    [held] = pair.trip(1).messages
    pair.server.reap("a")
    pair.doing.append(element(2))
    answer = pair.trip(0)
    assert (bodies(answer.lost), bodies(answer.messages)) == ([1], [2])
    assert held.lost
    assert list(pair.state.held) == [element(2)]


def test_after_a_reconcile_all_is_known(pair: Pair) -> None:
    """Reconciling happens once: the next trip finds belief and list equal."""
    pair.server.put(*elements(3))
    assert pair.trip(2).reconciled  # the first trip knows nothing
    pair.server.reap("a")
    assert pair.trip(0).reconciled
    assert not pair.trip(1).reconciled


def test_dead_name(pair: Pair) -> None:
    """A name declared dead loses all it held; its settles are refused; a new name goes on cleanly."""
    pair.server.put(*elements(3))
    messages = pair.trip(2).messages
    pair.server.reap("a", dead=True)
    answer = pair.trip(1, pair.state.ack(messages[0]))
    assert (answer.status, len(answer.lost), answer.messages) == ("dead", 2, [])
    assert [s.accepted for s in answer.settled] == [False]
    assert not pair.state.held
    pair.state.rename("b")
    assert not pair.state.fresh(pair.now)
    answer = pair.trip(3, pair.state.ack(messages[1]))
    assert [s.accepted for s in answer.settled] == [False]
    assert [m.envelope.lost for m in answer.messages] == [1]  # a suspect comes alone
    assert pair.server.doing["b"] == [answer.messages[0].envelope.element]


# -- identical elements -------------------------------------------------------------------------------------


def test_twins_are_handed_out_one_after_the_other(pair: Pair) -> None:
    """Byte-identical envelopes are never in two handlers at once, and each is delivered and settled."""
    pair.server.put(element(1), element(1), element(1))
    delivered = []
    messages = pair.trip(3).messages
    for _ in range(3):
        assert len(messages) == 1
        delivered += messages
        answer = pair.trip(3, pair.state.ack(messages[0]))
        assert answer.settled[0].accepted
        messages = answer.messages
    assert (len(delivered), messages, pair.doing, pair.state.held) == (3, [], [], {})
    assert not pair.trip(3).reconciled


def test_a_third_twin_waits_for_the_second(pair: Pair) -> None:
    """Claimed by the trip that settles the first: it is not handed out beside the second."""
    pair.server.put(element(1), element(1), element(1))
    [first] = pair.trip(2).messages
    messages = pair.trip(1, pair.state.ack(first)).messages
    for _ in range(2):
        assert len(messages) == 1
        messages = pair.trip(1, pair.state.ack(messages[0])).messages
    assert (messages, pair.doing, pair.state.held) == ([], [], {})


def test_a_twin_that_was_lost_is_not_handed_out(pair: Pair) -> None:
    """Both were reaped: the answer to the first one's settle frees nothing that is ours."""
    pair.server.put(element(1), element(1))
    [first] = pair.trip(2).messages
    pair.server.reap("a")
    assert len(Pair(pair.server, "b").trip(1).messages) == 1
    answer = pair.trip(0, pair.state.ack(first))
    assert (answer.messages, pair.state.held, pair.doing) == ([], {}, [])
    assert not pair.trip(0).reconciled


def test_a_twin_of_a_suspect_is_one(pair: Pair) -> None:
    """It comes alone, too."""
    pair.server.put(element(1, lost=1))
    [first] = pair.trip(1).messages
    pair.server.doing["a"].append(element(1, lost=1))  # as if an answer had been lost
    pair.server.put(element(2))
    pair.trip(0)
    assert len(pair.trip(0, pair.state.ack(first)).messages) == 1
    assert pair.trip(1).messages == []


def test_raw_elements_are_told_apart(pair: Pair) -> None:
    """Identical raw bodies become messages of their own."""
    pair.server.put(b'"x"', b'"x"', b"")
    messages = pair.trip(3).messages
    assert bodies(messages) == ["x", "x"]
    assert len({m.envelope.id for m in messages}) == 2
    assert len(pair.trip(0).settled) == 1  # the empty one is no JSON
    [member] = pair.server.dead
    assert env.split_note(member)[0]["cause"] == "UNDECODABLE"


# -- what cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (element(1)[:4] + b"\x02" + element(1)[5:], "UNSUPPORTED_VERSION"),
        (element(1)[:8] + b"\xff" + element(1)[9:], "BAD_LENGTH"),
        (env.pack(bytes(16), b"\xc1"), "UNDECODABLE"),
        (env.pack(bytes(16), b"x", {"c": [1]}), "UNDECODABLE"),
        (b"\xc1rlq no envelope", "UNDECODABLE"),
    ],
)
def test_unreadable_is_buried_and_blocks_nobody(pair: Pair, bad: bytes, code: str) -> None:
    """It never reaches a handler, dies with its reason in the next trip, and others pass."""
    pair.server.put(bad, element(2))
    assert bodies(pair.trip(2).messages) == [2]
    answer = pair.trip(2)
    assert [(s.verb, s.accepted) for s in answer.settled] == [("bury", True)]
    [member] = pair.server.dead
    note, back = env.split_note(member)
    assert note["cause"] == code
    assert back.endswith(bad)  # as it came, or wrapped
    assert len(pair.doing) == 1


def test_unreadable_twins_are_both_settled(pair: Pair) -> None:
    """Two equal unreadable envelopes leave the list, and do not come again and again."""
    bad = env.pack(bytes(16), b"\xc1")
    pair.server.put(bad, bad, element(2))
    assert bodies(pair.trip(3).messages) == [2]
    pair.trip(0)
    assert len(pair.doing) == 1
    assert not pair.state._twins  # else no trip would be under way ahead any more
    assert pair.trip(0).settled == []


# -- suspects -----------------------------------------------------------------------------------------------


def suspect(number: int) -> bytes:
    return element(number, returns=1, lost=1)


def test_suspect_comes_alone(pair: Pair) -> None:
    """A message that a consumer died with is claimed with empty hands, and nothing beside it."""
    pair.server.put(element(1), suspect(2), element(3))
    first = pair.trip(3)
    assert bodies(first.messages) == [1]
    assert pair.state.suspects_wait
    second = pair.trip(3, *acks(pair.state, first.messages))
    assert bodies(second.messages) == [2]
    assert pair.trip(3).messages == []  # held: nothing beside it
    third = pair.trip(3, *acks(pair.state, second.messages))
    assert bodies(third.messages) == [3]


def test_what_is_held_back_by_a_suspect_is_not_waited_for(pair: Pair) -> None:
    """While a suspect in hand keeps it from claiming, the bell would ring again and again for what waits."""
    pair.server.put(suspect(1), element(2))
    [one] = pair.trip(3).messages
    assert pair.trip(3).messages == []
    assert pair.state.suspects_wait
    assert bodies(pair.trip(3, pair.state.ack(one)).messages) == [2]
    assert not pair.state.suspects_wait


def test_suspect_is_left_to_others(pair: Pair) -> None:
    """Hands that stay full for longer than the patience pass over suspects, and keep the order of the rest."""
    pair.server.consumers["b"] = pair.server.now + 60_000
    pair.server.put(element(1), suspect(2), element(3), suspect(4), element(5))
    assert bodies(pair.trip(2).messages) == [1]
    pair.pass_time(defaults.SUSPECT_PATIENCE - 0.1)
    assert pair.trip(2).messages == []
    pair.pass_time(0.2)
    assert bodies(pair.trip(2).messages) == [3, 5]
    assert pair.server.ready == [suspect(4), suspect(2)]


def test_suspect_does_not_strand(pair: Pair) -> None:
    """Without another live consumer, or after a lease of declining, a suspect runs beside what is stuck
    here; one at a time, until it has hung for a whole lease itself."""
    pair.server.put(element(1), suspect(2), suspect(3), element(4))
    pair.trip(3)
    pair.pass_time(defaults.SUSPECT_PATIENCE)
    assert bodies(pair.trip(3).messages) == [2]
    pair.pass_time(LEASE - 1)
    assert pair.trip(3).messages == []
    pair.pass_time(2)
    assert pair.trip(3).messages == []  # waits for empty hands first
    pair.pass_time(defaults.SUSPECT_PATIENCE)
    assert bodies(pair.trip(3).messages) == [3]

    other = Pair()
    other.server.consumers["b"] = other.server.now + 600_000
    other.server.put(element(1), suspect(2))
    other.trip(2)
    for _ in range(8):
        other.pass_time(LEASE / 8)
        assert other.trip(2).messages == []
    other.pass_time(1)
    assert bodies(other.trip(2).messages) == [2]


def test_patience_starts_anew(pair: Pair) -> None:
    """Hands that were empty in between have shown that they can take suspects."""
    pair.server.put(element(1), suspect(2))
    [one] = pair.trip(3).messages
    pair.pass_time(0.9)
    [two] = pair.trip(3, pair.state.ack(one)).messages
    pair.server.put(suspect(3))
    pair.pass_time(5)
    assert pair.trip(3).messages == []
    assert bodies(pair.trip(3, pair.state.ack(two)).messages) == [3]


# -- the lease ----------------------------------------------------------------------------------------------


def test_lease_counts_from_sending(pair: Pair) -> None:
    """A hand-over may start while a third of the lease is certainly left, counted from before the trip."""
    assert not pair.state.fresh(pair.now)
    assert pair.state.renew_in(pair.now) == 0
    sent_at = pair.now
    reply = pair.server.run(pair.state.trip(1, sent_at))
    pair.pass_time(9)  # a slow answer
    pair.state.answered(reply, sent_at)
    assert pair.state.fresh(sent_at + LEASE * 2 / 3 - 0.01)
    assert not pair.state.fresh(sent_at + LEASE * 2 / 3)
    assert pair.state.renew_in(sent_at) == pytest.approx(5)


def test_the_lease_is_confirmed_after_what_was_lost_is_marked(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handler threads look at both at any moment (first the lease, then whether the message was lost), so the
    other order would let one start on a message that was reaped while the process was stopped."""
    pair.server.put(element(1))
    (message,) = pair.trip().messages
    pair.pass_time(LEASE * 2)
    pair.server.reap(pair.state.name)
    seen = []
    reconcile = pair.state._reconcile

    def watched(listed: Iterable[bytes]) -> Any:
        seen.append(pair.state.fresh(pair.now))
        result = reconcile(listed)
        seen.append(pair.state.fresh(pair.now))
        return result

    monkeypatch.setattr(pair.state, "_reconcile", watched)
    pair.trip(0)
    assert message.lost
    assert seen == [False, False]
    assert pair.state.fresh(pair.now)


def test_due_time_is_reported(pair: Pair) -> None:
    """The answer says when something will be due, so that an idle consumer sleeps no longer."""
    assert pair.trip(1).due_in is None
    pair.server.later[element(1)] = pair.server.now + 2500
    assert pair.trip(1).due_in == 2.5
    pair.pass_time(2.5)
    assert bodies(pair.trip(1).messages) == [1]


def test_bell_is_no_message(pair: Pair) -> None:
    """The wake-up of a delayed put is dropped, whichever way it comes in."""
    pair.server.put(BELL, element(1), BELL)
    pair.server.bell("a")
    assert bodies(pair.trip(3).messages) == [1]
    assert pair.server.ready == []


# -- what the server forgets ---------------------------------------------------------------------------------


def rolled_back(pair: Pair, before: Model) -> None:
    pair.server = before
    pair.state.reconnected("second")


@pytest.mark.parametrize("verb", ["ack", "retry", "bury", "release"])
def test_settles_survive_a_rollback(pair: Pair, verb: str) -> None:
    """A server that forgot a settle is told again, with the same bytes; the handler does not run twice."""
    pair.state.reconnected("first")
    pair.server.put(element(1))
    [message] = pair.trip(1).messages
    pair.trip(0)
    before = copy.deepcopy(pair.server)
    settle = {
        "ack": lambda: pair.state.ack(message),
        "retry": lambda: pair.state.retry(message, 60, "no"),
        "bury": lambda: pair.state.bury(message, "BURIED", "no"),
        "release": lambda: pair.state.release(message, handled=True),
    }[verb]()
    pair.trip(0, settle)
    after = copy.deepcopy((pair.server.ready, pair.server.later, set(pair.server.dead), pair.server.doing))
    rolled_back(pair, before)
    answer = pair.trip(0)
    assert answer.messages == []
    assert pair.trip(0).settled[0].accepted
    assert (pair.server.ready, pair.server.later, set(pair.server.dead), pair.server.doing) == after


def test_what_was_done_in_time_is_done_again_later(pair: Pair) -> None:
    """Its deadline is over when the server, which forgot the ack, brings it back: it is no dead letter."""
    pair.state.reconnected("first")
    id = env.uuid7(pair.server.now, bytes(10))
    pair.server.put(env.pack(id, msgpack.packb(1), {"d": pair.server.now + 5000}))
    [message] = pair.trip(1).messages
    before = copy.deepcopy(pair.server)
    pair.trip(0, pair.state.ack(message))
    rolled_back(pair, before)
    pair.pass_time(6)
    assert pair.trip(0).messages == []
    assert [(s.verb, s.accepted) for s in pair.trip(0).settled] == [(ACK, True)]
    assert not pair.server.dead


def test_ghosts_only_after_a_change_of_server(pair: Pair) -> None:
    """Without a rollback the same bytes are a message like any other."""
    pair.state.reconnected("first")
    pair.server.put(element(1))
    pair.trip(0, pair.state.ack(pair.trip(1).messages[0]))
    pair.state.reconnected("first")
    pair.server.put(element(1))
    assert bodies(pair.trip(1).messages) == [1]


def test_an_id_put_again_is_no_ghost(pair: Pair) -> None:
    """An id of the user's own may be put again with the same body, hours and a server restart later: it is
    delivered. (Only a time-ordered id says that it is the same put.)"""
    nightly = env.pack(env.named_id("nightly"), msgpack.packb(1))
    pair.state.reconnected("first")
    pair.server.put(nightly)
    pair.trip(0, pair.state.ack(pair.trip(1).messages[0]))
    pair.state.reconnected("second")
    pair.server.put(nightly)
    assert bodies(pair.trip(1).messages) == [1]


def test_memory_of_settles_is_bounded(pair: Pair) -> None:
    """Large failing bodies do not pile up in memory."""
    for number in range(40):
        pair.server.put(element(number, bytes(1024 * 1024)))
        [message] = pair.trip(1).messages
        pair.trip(0, pair.state.retry(message, 60, "no"))
    remembered = pair.state._memory.recall()
    assert 0 < sum(len(back) for _, back, _ in remembered.values()) < 20 * 1024 * 1024


# -- announcements ------------------------------------------------------------------------------------------


def announced(command: Command) -> tuple[object, object]:
    return command.args[9], command.args[10]


def test_announces_itself_once(pair: Pair) -> None:
    """Who we are and which server we reached is said in the first trip, and after each reconnect."""
    pair.state.reconnected("first")
    assert announced(pair.state.trip(0, pair.now)) == ("first", "me")
    pair.trip(0)
    assert announced(pair.state.trip(0, pair.now)) == ("", "")
    pair.trip(0)
    pair.state.reconnected("second")
    assert announced(pair.state.trip(0, pair.now)) == ("second", "me")


def test_reconnect_during_a_trip_is_announced_after_it(pair: Pair) -> None:
    """The repeated trip is the old one; the new server is announced by the trip after it."""
    pair.state.reconnected("first")
    pair.trip(0)
    pair.lose_reply(0)
    pair.state.reconnected("second")
    assert announced(pair.state.trip(0, pair.now)) == ("", "")
    pair.trip(0)
    assert announced(pair.state.trip(0, pair.now)) == ("second", "me")


def test_settles_without_messages_in_hand(pair: Pair) -> None:
    """A settle that comes twice is late the second time, and nothing else happens."""
    pair.server.put(element(1))
    [message] = pair.trip(1).messages
    answer = pair.trip(0, pair.state.ack(message), pair.state.ack(message))
    assert [(s.verb, s.accepted) for s in answer.settled] == [(ACK, True), (ACK, False)]


def test_another_server_is_asked_for_the_whole_list(pair: Pair) -> None:
    """A rollback may leave as many in the list as are in hand, under the same epoch, but not the same ones."""
    pair.server.put(element(1), element(2))
    [one] = pair.trip(1).messages
    before = copy.deepcopy(pair.server)
    pair.state.reconnected("first")
    [two] = pair.trip(1, pair.state.ack(one)).messages
    pair.server = before
    pair.state.reconnected("second")
    answer = pair.trip(0)
    assert answer.lost == [two]
    pair.trip(0)  # what was acked before is acked again
    assert pair.doing == []
    assert bodies(pair.trip(1).messages) == [2]


def test_equal_unreadable_messages_are_several_dead_letters(pair: Pair) -> None:
    """Equal members of a sorted set would be one."""
    bad = env.pack(bytes(16), b"\xc1")
    pair.server.put(bad, bad, bad)
    pair.trip(3)
    pair.trip(0)
    assert len(pair.server.dead) == 3


class _Interrupting(dict[bytes, Message]):
    """A dict of messages whose n-th change is interrupted."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def __setitem__(self, key: bytes, value: Message) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        super().__setitem__(key, value)


def test_an_interrupted_answer_is_digested_again(pair: Pair) -> None:
    """Ctrl-C while an answer is digested: nothing that it said is forgotten, settles included."""
    pair.server.put(*elements(4))
    [one] = pair.trip(1).messages
    held = _Interrupting(3)
    held.update(pair.state.held)
    pair.state.held = held
    with pytest.raises(KeyboardInterrupt):
        pair.trip(3, pair.state.ack(one))
    answer = pair.trip(0)
    assert [settle.accepted for settle in answer.settled] == [True]
    held_back = [m for m in pair.state.held.values() if m not in answer.messages]
    assert sorted(bodies([*answer.messages, *held_back])) == [1, 2, 3]
    assert not any(m.minded for m in held_back)


class _Interrupted(deque[Any]):
    """A deque whose first popleft() is interrupted."""

    done = False

    def popleft(self) -> Any:
        if not self.done:
            self.done = True
            raise KeyboardInterrupt
        return super().popleft()


def test_an_interrupted_trip_leaves_no_gap(pair: Pair) -> None:
    """Ctrl-C while a trip is made: its number is not taken for one that the server has forgotten, and what it
    settles is settled once."""
    pair.server.put(*elements(2))
    one, two = pair.trip(2).messages
    pair.state.finished = _Interrupted()
    with pytest.raises(KeyboardInterrupt):
        pair.trip(0, pair.state.ack(one))
    sent = pair.state.trip(0, pair.now)
    assert sent.args[1] == 2
    answer = pair.state.answered(pair.server.run(sent), pair.now)
    assert [settle.accepted for settle in answer.settled] == [True]
    assert list(pair.state.held.values()) == [two]
