"""The schedules of a queue in Redis: to add, change, remove and list them, and to fire what is due."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import ops
from reliq.core.command import Arg, Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys
from reliq.core.schedule import Definition, id_of
from reliq.core.scripts import load
from reliq.core.shape import FLAG
from reliq.errors import DecodeError, Unavailable

_schedule = load("schedule", after="tick", shape=FLAG)
_unschedule = load("unschedule", after="tick", shape=FLAG)
_due = load("due", after="tick", shape=(int, int, FLAG, bytes, ...))
_fire = load("fire", after="tick", shape=(int, int, int))

#: Ticks that one call fires: about 2 ms of Redis.
_MOST: Final = 500
#: Of one schedule, so that those behind it have their turn.
_MOST_OF_ONE: Final = 100
#: Rounds of one pass; the next pass goes on within a second.
_ROUNDS: Final = 100
_TRIES: Final = 20
_PAGE: Final = 100


# -- single operations --------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What stands there of a schedule: its definition (packed) and its next tick; empty and None: nothing."""

    packed: bytes = b""
    tick: int | None = None


def schedule(keys: Keys, name: str, known: Known, packed: bytes, tick: int) -> Command:
    """Add or change a schedule that is ``known`` as it was read. Parses to False if it is not so any more."""
    k = keys
    names = (k.schedules, k.ticks, k.stats, k.ready, k.consumers, k.later)
    args = (name, known.packed, "" if known.tick is None else known.tick, packed, tick)
    return Command(_schedule, names, args, lambda r: r == 1, idempotent=True, queue=k.queue)


def unschedule(keys: Keys, name: str) -> Command:
    """Remove a schedule. Parses to False if there is none."""
    names = (keys.schedules, keys.ticks, keys.stats)
    return Command(_unschedule, names, (name,), lambda r: r == 1, idempotent=True, queue=keys.queue)


class Due(NamedTuple):
    """Ticks that are due. ``wait``: ms until another look is worth it, None: there is no tick; ``more``: whether
    more are due than these: (name, tick, packed definition)."""

    now: int
    wait: int | None
    more: bool
    ticks: list[tuple[str, int, bytes]]


def due(keys: Keys, *, skip: int = 0, politely: bool = False) -> Command:
    """Which ticks are due. ``politely``: only if nobody else fires them at this moment. Parses to Due."""

    def parse(reply: list[Any]) -> Due:
        flat = iter(reply[3:])
        found = [(_text(name), _ms(tick), packed) for name, tick, packed in zip(flat, flat, flat, strict=True)]
        return Due(reply[0], None if reply[1] < 0 else reply[1], bool(reply[2]), found)

    args = (_MOST, defaults.SCRIPT_BYTES, skip, int(politely))
    names = (keys.ticks, keys.schedules, keys.stats)
    return Command(_due, names, args, parse, idempotent=True, queue=keys.queue)


class Shot(NamedTuple):
    """One tick to fire, in the words of the script. ``following``: the next one; ``element``: empty if the tick is
    passed over; ``traced``: its id, if every step of the message is written down."""

    name: str
    packed: bytes
    tick: int
    following: int | None
    due: int = 0
    element: bytes = b""
    traced: bytes = b""

    def words(self) -> tuple[Arg, ...]:
        following = "" if self.following is None else self.following
        return self.name, self.packed, self.tick, following, self.due, self.element, self.traced.hex()


def fire(keys: Keys, by: str, program: str, shots: list[Shot]) -> Command:
    """Fire ticks. Parses to (how many became messages, ms until the next one or None)."""
    k = keys
    names = (k.ready, k.later, k.consumers, k.schedules, k.ticks, k.stats, k.traces, k.producers)
    args = (by, program, *(word for shot in shots for word in shot.words()))
    return Command(
        _fire, names, args, lambda r: (r[1], None if r[2] < 0 else r[2]), idempotent=True, queue=k.queue
    )


class Glance(NamedTuple):
    """How many schedules a queue has, and when the first one of them ticks next, Unix ms; None: never."""

    schedules: int = 0
    next_tick: int | None = None


def glance_g(keys: Keys) -> Flow[Glance]:
    """For those who look at a queue from outside."""
    count, first = all_of((yield [ops.length(keys.schedules, "HLEN"), ops.page(keys.ticks, 0, 0, "ZRANGE")]))
    return Glance(count, _ms(first[1]) if first else None)


def _look(keys: Keys, names: list[str]) -> list[Command]:
    """What stands there of these schedules: definitions, then next ticks."""
    return [
        Command("HMGET", (keys.schedules,), tuple(names), idempotent=True, queue=keys.queue),
        Command("ZMSCORE", (keys.ticks,), tuple(names), idempotent=True, queue=keys.queue),
    ]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _ms(score: bytes) -> int:
    return int(float(score))


# -- flows --------------------------------------------------------------------------------------------------


def schedule_g(keys: Keys, name: str, definition: Definition) -> Flow[int]:
    """Add or change a schedule; returns its next tick. One whose timing stays as it is keeps its next tick, also
    one that is due; else that is computed anew from now, by the server's clock."""
    packed = definition.pack()
    for _ in range(_TRIES):
        known, now = yield from _known_g(keys, name)
        tick = known.tick
        if tick is None or _timing_of(name, known.packed) != definition.timing:
            tick = definition.timing.after(now)
        assert tick is not None
        if (yield schedule(keys, name, known, packed, tick)):
            return tick
    raise Unavailable(
        f"queue {keys.queue!r}: schedule {name!r} was changed by others {_TRIES} times while it was being changed "
        "here; nothing was done: try again, and see who else changes it"
    )


def _known_g(keys: Keys, name: str) -> Flow[tuple[Known, int]]:
    """What stands there, and the server's clock."""
    [packed], [tick], now = all_of((yield [*_look(keys, [name]), ops.server_time()]))
    return Known(packed or b"", None if tick is None else _ms(tick)), now


def _timing_of(name: str, packed: bytes) -> Any:
    try:
        return Definition.read(name, packed).timing
    except DecodeError:  # then it is written anew
        return None


def unschedule_g(keys: Keys, name: str) -> Flow[bool]:
    """Remove a schedule; False if there was none."""
    known, _ = yield from _known_g(keys, name)
    if known == Known():
        return False
    yield unschedule(keys, name)  # a repeat finds none any more
    return True


def list_g(keys: Keys) -> Flow[list[tuple[str, bytes, int | None]]]:
    """All schedules, by name: (name, packed definition, next tick)."""
    found: dict[str, tuple[bytes, int | None]] = {}
    cursor = 0
    while True:
        args = (cursor, "COUNT", _PAGE)
        reply = yield Command("HSCAN", (keys.schedules,), args, idempotent=True, queue=keys.queue)
        names = [_text(name) for name in reply[1][::2]]
        for start in range(0, len(names), _PAGE):  # a small hash comes whole
            some = names[start : start + _PAGE]
            definitions, ticks = all_of((yield _look(keys, some)))
            for name, packed, tick in zip(some, definitions, ticks, strict=True):
                if packed is not None:
                    found[name] = packed, None if tick is None else _ms(tick)
        cursor = int(reply[0])
        if cursor == 0:
            return [(name, *found[name]) for name in sorted(found)]


class Fired(NamedTuple):
    """What one pass did: how many ticks became messages, ms until the next one (None: there is none), and what is
    wrong with schedules that could not be fired, by name."""

    messages: int
    wait: int | None
    unread: dict[str, str]


def fire_g(
    keys: Keys, by: str, program: str, traces: Callable[[bytes], bool], *, politely: bool = False
) -> Flow[Fired]:
    """Fire what is due. ``politely``: leave it to whoever is at it at this moment. ``by``, ``program``: who puts,
    and ``traces``: of which messages, by their id, every step is written down."""
    messages, unread = 0, dict[str, str]()
    page: Due = yield due(keys, politely=politely)
    wait = page.wait
    for _ in range(_ROUNDS):
        left, before = page.more, messages
        shots: list[Shot] = []
        for name, tick, packed in page.ticks:
            try:
                some, all_ = shots_of(keys.queue, name, tick, packed, page.now, traces)
            except DecodeError as error:
                unread[name] = str(error)
                continue
            shots += some
            left = left or not all_
        for call in calls_of(shots):
            fired, wait = yield fire(keys, by, program, call)
            messages += fired
        if not left or (shots and messages == before):  # somebody else is at it, or the queue takes no puts
            break
        page = yield due(keys, skip=len(unread))
    return Fired(messages, wait, unread)


def shots_of(
    queue: str, name: str, tick: int, packed: bytes, now: int, traces: Callable[[bytes], bool]
) -> tuple[list[Shot], bool]:
    """What to do about the ticks of one schedule, and whether that is all."""
    if not packed:
        return [Shot(name, packed, tick, None)], True
    definition = Definition.read(name, packed)
    shots: list[Shot] = []
    for step in definition.steps(tick, now):
        if len(shots) == _MOST_OF_ONE:
            return shots, False
        shot = Shot(name, packed, step.at, step.following)
        if step.fires is not None:
            id = id_of(queue, name, step.fires)
            traced = id if traces(id) else b""
            element = definition.element(id, name, step.fires, traced=bool(traced))
            shot = shot._replace(due=definition.due(name, step.fires), element=element, traced=traced)
        shots.append(shot)
    return shots, True


def calls_of(shots: list[Shot]) -> Iterator[list[Shot]]:
    """What one call may take: so many ticks, and so many bytes of messages and definitions."""
    call: list[Shot] = []
    size = 0
    for shot in shots:
        weight = len(shot.element) + len(shot.packed)
        if call and (len(call) == _MOST or size + weight > defaults.SCRIPT_BYTES):
            yield call
            call, size = [], 0
        call.append(shot)
        size += weight
    if call:
        yield call
