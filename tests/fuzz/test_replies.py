"""Replies that no Redis gives: each command, flow and consumer says so with a ReliqError, and goes on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext, suppress
from random import Random
from typing import Any

import pytest

from reliq import client
from reliq.core import dead, flows, ops, reaping, ticks, waiting
from reliq.core import envelope as env
from reliq.core.codec import CODECS
from reliq.core.command import Command
from reliq.core.consumer import ConsumerState
from reliq.core.explain.looks import Found
from reliq.core.keys import Keys
from reliq.core.message import Message
from reliq.core.topology import Ask, Node, Open, Server, Topology, is_address
from reliq.errors import OutcomeUnknown, Refused, ReliqError, Unavailable
from tests.fuzz.mutants import seal

K = Keys("q")
ELEMENT = env.pack(b"i" * 16, b"\xc0")
LETTER = dead.Letter.read(env.join_note({"id": "ab", "cause": "BURIED"}, ELEMENT), b"1700")

#: A command, and a reply that it may have. Mangled ones are made of this.
COMMANDS: list[tuple[Command, Any]] = [
    (ops.put(K, b"p", 1, [ELEMENT]), 1),
    (ops.put(K, b"p", 1, [ELEMENT], confirm=ops.Confirm(1, True, 100)), [1, [1, 0], 1]),
    (ops.bell(K, "c", 5), ELEMENT),
    (ops.leave(K, "c", bell_ended=True), 1),
    (ops.renew(K, "c", 15), 0),
    (ops.expired(K, 0, 10), [1700, b"a", b"b"]),
    (ops.reap(K, "c"), [b"reaped", 3, 1, 1]),
    (ops.scan_lists(K, 0), [b"7", [K.inbox("a").encode(), b"\xff"]]),
    (ops.register(K, None, 15, 3), [1, 0]),
    (ops.known_queues("p"), [b"b", b'{"key": "k", "codec": "json"}', b"a", b"{}"]),
    (ops.length("k"), 5),
    (ops.sizes(K, ["c"]), [1, 2, 3, 4, 1]),
    (ops.consumers(K), [b"a", b"1700", b"b", b"inf"]),
    (ops.session(K, "a"), [b"me", b"1700", None, None, b"1", None]),
    (ops.server_time(), [b"1700", b"999999"]),
    (ops.page("k", 0, -1), [ELEMENT, b"raw"]),
    (ops.unblock(5), 1),
    (ticks.schedule(K, "s", ticks.Known(), b"d", 5), 1),
    (ticks.unschedule(K, "s"), 1),
    (ticks.due(K), [1700, -1, 0, b"s", b"1600", b"definition"]),
    (ticks.fire(K, "me", "program", [ticks.Shot("s", b"d", 5, 6, 5, ELEMENT)]), [1700, 1, 20]),
    (ops.kill_client(5), 1),
    (dead.revive(K, "me", [LETTER]), [1]),
    (dead.discard(K, "me", [LETTER]), [0]),
    (dead.restore(K, "me", [LETTER]), [1]),
    (waiting.cancel(K, Found("later", 0, ELEMENT), waiting.Caller("me")), 0),
    (waiting.call_off(K, Found("doing", 0, ELEMENT, consumer="c"), waiting.Caller("me")), 1),
    (waiting.reschedule(K, Found("later", 0, ELEMENT), ops.Due("in", 5), waiting.Caller("me")), 2),
]


def _id(value: object) -> str:
    return value.name if isinstance(value, Command) else ""


_SCALARS: list[Any] = [
    *(None, 0, 1, 2, -1, 2**63 - 1, -(2**63), True, 1.5, "text", b"", b"OK", b"1", b"-1", b"inf", b"nan", b"\xff"),
    *(ELEMENT, ELEMENT[:-1], OutcomeUnknown("an error in the middle of a list")),
]


def nonsense(rng: Random, depth: int = 0) -> Any:
    """Anything that a parser of replies can make of bytes, and some that none can."""
    kind = rng.randrange(8) if depth < 3 else 0
    if kind == 1:
        return rng.randbytes(rng.randrange(20))
    if kind == 2:
        return rng.randrange(-(2**63), 2**63)
    if kind in (3, 4):
        return [nonsense(rng, depth + 1) for _ in range(rng.randrange(6))]
    if kind == 5:
        return {rng.randbytes(2): nonsense(rng, depth + 1)}
    return rng.choice(_SCALARS)


def mangled(rng: Random, reply: Any) -> Any:
    """A good reply with something wrong in it, at times nonsense, at times the good one."""
    if not isinstance(reply, list) or rng.random() < 0.1:
        return reply if rng.random() < 0.3 else nonsense(rng)
    hurt = list(reply)
    for _ in range(rng.randrange(3)):
        place, how = rng.randrange(len(hurt) + 1), rng.choice(["drop", "add", "replace", "inside"])
        if how == "add":
            hurt.insert(place, nonsense(rng))
        elif how == "drop":
            del hurt[place : place + 1]
        elif place < len(hurt):
            hurt[place] = mangled(rng, hurt[place]) if how == "inside" else nonsense(rng)
    return hurt


@pytest.mark.parametrize(("command", "good"), COMMANDS, ids=_id)
def test_a_command_reads_its_reply_or_says_that_it_is_none(command: Command, good: Any) -> None:
    """OutcomeUnknown, which names the command and what came; never an error of Python's own."""
    command.read(good)
    rng, refused = Random(command.name), 0
    for _ in range(500):
        try:
            command.read(mangled(rng, good))
        except OutcomeUnknown as error:
            refused += all(part in str(error) for part in (command.name, "came for an answer", "proxy"))
        except Refused:
            continue  # an answer, too: that nothing was done, and why
    assert refused > 100 or command.parse is None


@pytest.mark.parametrize("reply", [b"OK", b"QUEUED", None, [], [1, 5], 2, -1, True, b"1", "1"])
def test_a_put_is_accepted_by_nothing_but_its_own_answer(reply: Any) -> None:
    """A message whose put was answered with something else may be in or not; it is never taken for accepted."""
    with pytest.raises(OutcomeUnknown):
        ops.put(K, b"p", 1, [ELEMENT]).read(reply)


# -- flows --------------------------------------------------------------------------------------------------

_GOOD = {command.name: good for command, good in COMMANDS}


def drive(flow: Generator[Any, Any, Any], answer: Callable[[Any], Any]) -> Any:
    """Run a flow as a shell does: errors are thrown into it, those of a pipeline stand in place. A flow that goes
    on for ever fails."""
    step = next(flow)
    try:
        for _ in range(10_000):
            try:
                reply = answer(step)
            except ReliqError as error:
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it does not end")


FLOWS: dict[str, Callable[[], Generator[Any, Any, Any]]] = {
    "sizes": lambda: flows.sizes_g(K),
    "consumers": lambda: flows.consumers_g(K),
    "reap dead": lambda: reaping.reap_dead_g(K, "c", max_losses=3, started=None),
    "reap expired": lambda: reaping.reap_expired_g(
        K, lease=15, server="", max_losses=3, patience=reaping.Patience(15, lambda: 0.0)
    ),
    "adopt strays": lambda: reaping.adopt_strays_g(K, 0, 5, lease=15, server="", max_losses=3),
    "revive": lambda: dead.carry_out_g(K, dead.revive, "me", [LETTER]),
    "cancel": lambda: waiting.cancel_g(K, "ab", waiting.Caller("me")),
    "reschedule": lambda: waiting.reschedule_g(K, "ab", ops.Due("in", 5), waiting.Caller("me")),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_ends_whatever_it_is_told(name: str) -> None:
    """With a result or a ReliqError."""
    rng = Random(name)

    def one(command: Command) -> Any:
        return command.read(mangled(rng, _GOOD.get(command.name, [[b"1-1", [b"event", b"x"]]])))

    def or_error(command: Command) -> Any:
        try:
            return one(command)
        except ReliqError as error:
            return error

    def answer(step: Any) -> Any:
        return one(step) if isinstance(step, Command) else [or_error(command) for command in step]

    for _ in range(500):
        with suppress(ReliqError):
            drive(FLOWS[name](), answer)


@pytest.mark.parametrize("behind", ["sentinels", "cluster"])
def test_the_way_to_a_primary_ends_whatever_is_said_on_it(behind: str) -> None:
    """Sentinels and nodes that name nonsense: Unavailable, which says what was tried, and no endless search."""
    named = {"sentinels": [b"h", b"1"], "cluster": [[0, 16383, [b"h", 7000, b"id"], [b"", 7001, b"id"]]]}[behind]
    rng = Random(behind)

    def answer(step: Ask | Open) -> Any:
        if rng.random() < 0.2:
            raise rng.choice([Unavailable("not there"), OutcomeUnknown("no answer")])
        if isinstance(step, Open):
            assert is_address(*step.node), step
            return Server(role=rng.choice(["master", "slave", ""]))
        return mangled(rng, named)

    for _ in range(500):
        topology = Topology((Node("a", 1), Node("b", 2)), master="my" * (behind == "sentinels"), label="a:1,b:2")
        for key in ("k", "{x}", "k"):  # what was learnt from nonsense leads no further astray
            with suppress(Unavailable, OutcomeUnknown):
                drive(topology.reach_g(key), answer)


@pytest.mark.parametrize("url", ["redis://h:1/0", "redis+sentinel://h:1/my"])
def test_what_is_no_redis_is_told_at_the_door(url: str) -> None:
    """Anything for an answer to the first questions: a Server, or one clear refusal."""
    address, rng, refused, accepted = client.parse(url), Random(url), 0, 0
    info = b"redis_version:7.0.1\r\nrun_id:abc\r\nredis_mode:cluster\r\n"
    good = {"INFO": info, "CLIENT": 5, "ROLE": [b"master", 1, []]}
    for _ in range(1000):
        said = [mangled(rng, good[words[0]]) for words in client.opening(address)]
        said = [None if isinstance(reply, Exception) else reply for reply in said]
        try:
            client.check_greeting(said, address, "h:1/0")
            server = client.read_server(said, "h:1/0")
        except ReliqError as error:
            refused += "h:1/0" in str(error)
        else:
            accepted += isinstance(server.version, str) and isinstance(server.client_id, int)
    assert refused + accepted == 1000
    assert min(refused, accepted) > 50


# -- a consumer ---------------------------------------------------------------------------------------------

TRIP: list[Any] = [b"ok", 1_700_000_000_000, b"0", [], 0, 0, -1, -1, 0, [ELEMENT], 0, 0]
_ELEMENTS = [ELEMENT, ELEMENT, env.pack(b"j" * 16, b"\xc0", lost=2), b"", b"raw", seal(b"k" * 16 + b"\x90")]
_NUMBERS = [0, 1, -1, 2, 7, 2**40, -(2**63)]


def plausible(rng: Random) -> list[Any]:
    """An answer of the right shape that says anything."""
    status = rng.choice([b"ok", b"ok", b"ok", b"again", b"stale", b"dead", b"spell"])
    late = [rng.choice([0, 1, 7]) for _ in range(rng.randrange(3))]
    head = [status, rng.choice(_NUMBERS), rng.choice([b"0", b"", b"x"]), late, rng.randrange(2), rng.randrange(2)]
    held = [rng.choice(_ELEMENTS) for _ in range(rng.randrange(5))]
    more = rng.choice([[], [], [b""], [b"", rng.choice([b"", ELEMENT[23:39].hex().encode(), b"x x"])]])
    return [*head, *rng.choices(_NUMBERS, k=3), held, *rng.choices(_NUMBERS, k=2), *more]


def settle(rng: Random, state: ConsumerState, message: Message) -> None:
    """As handlers do; some keep theirs."""
    verbs = [
        lambda: state.ack(message),
        lambda: state.retry(message, 1, "no"),
        lambda: state.release(message),
        lambda: state.bury(message, "BURIED", "no"),
    ]
    if rng.random() < 0.8:
        state.finished.append(rng.choice(verbs)())


def test_a_consumer_goes_on_whatever_a_trip_is_told() -> None:
    """Nonsense is refused and the same trip is made again; what only looks right is digested; and after both an
    honest answer is understood."""
    spelled = 0
    for seed in range(1000):
        rng = Random(seed)
        state = ConsumerState(K, "c", lease=15.0, codec=CODECS["msgpack"], raw_codec=CODECS["json"])
        for now in range(rng.randrange(1, 8)):
            command = state.trip(5, now)
            try:
                reply = command.read(plausible(rng) if rng.random() < 0.7 else mangled(rng, TRIP))
            except OutcomeUnknown:
                assert state.unanswered
                assert state.trip(5, now) is command
                continue
            if reply[0] == b"spell":
                spelled += makes_it_again(state, command, reply)
                continue
            answer = state.answered(reply, now)
            if answer.status in ("dead", "stale"):
                state.rename(f"c{now}")
            if rng.random() < 0.3:
                state.finished.extend(answer.messages)
                continue
            for message in answer.messages:
                settle(rng, state, message)
        for now in (10, 11):  # honest ones, with the whole list: one message
            state.answered(state.trip(5, now).read([*TRIP[:4], 1, *TRIP[5:]]), now)
        assert set(state.held) <= {ELEMENT}, seed
    assert spelled > 2


def makes_it_again(state: ConsumerState, command: Command, reply: Any) -> bool:
    """What was told to name its acks does so once, and says the same else; True if it had not."""
    by_number = int(command.args[11]) < 0
    with nullcontext() if by_number else pytest.raises(OutcomeUnknown):
        state.spell(reply)
    again = state.trip(9, 1e6)
    assert (again is command) is not by_number
    assert (again.keys, again.args[:11]) == (command.keys, command.args[:11])
    return by_number
