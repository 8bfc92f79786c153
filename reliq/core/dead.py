"""Dead letters: how one reads, where to find them, and the three ways out and in: revive, discard, restore."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha1
from typing import Any, Final, NamedTuple

import msgpack

from reliq import defaults
from reliq.core import beside, ledger, scripts
from reliq.core import envelope as env
from reliq.core.command import Arg, Command, Flow
from reliq.core.keys import Keys
from reliq.core.walk import SortedWalk
from reliq.errors import DecodeError, ReliqError

#: The cause of a letter whose death note cannot be read.
BAD_NOTE: Final = "BAD_NOTE"
#: Their errors are somebody's own words, or ours; all others begin with the name of an exception.
_WITHOUT_EXCEPTION: Final = frozenset({"BURIED", "POISON", BAD_NOTE})
_EXCEPTION: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)(:|\Z)")
_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_LEDGER_PAGE: Final = 1000
#: Most letters of one call: each costs some 20 µs on a slow machine, and Redis is held for 5 ms at most.
TOGETHER: Final = 100
#: How long the marker of a letter stands that was revived or restored, ms.
_WINDOW: Final = round(defaults.DEDUPE_WINDOW * 1000)


class Letter(NamedTuple):
    """One member of ``dead``: the very bytes, its score as Redis writes it, its death note, and where the element
    begins in it; without a note that can be read, all of it is the element. ``body``: what lies beside the list,
    if it was brought along."""

    member: bytes
    score: str
    note: env.Meta
    start: int
    body: bytes | None = None

    @classmethod
    def read(cls, member: bytes, score: str) -> Letter:
        """Read a member; one that is no letter at all is read, too: its cause is BAD_NOTE."""
        try:
            note, element = env.split_note(member)
        except DecodeError as error:
            return cls(member, score, {"cause": BAD_NOTE, "error": str(error)}, 0)
        return cls(member, score, note, len(member) - len(element))

    @property
    def element(self) -> bytes:
        """The message as it was when it died."""
        return self.member[self.start :]

    @property
    def id(self) -> str:
        """That of the message, 32 hex digits; of a letter without one, an id made from its bytes."""
        noted = self.note.get("id")
        return noted if isinstance(noted, str) and _ID.match(noted) else self.identity.hex()

    @property
    def identity(self) -> bytes:
        """16 bytes that another letter of the same message has, too. Raw bytes have nothing in common."""
        return identity(self.element if env.is_envelope(self.element) else self.member)

    @property
    def ticket(self) -> bytes | None:
        """That of its body, if it lies beside the list."""
        with suppress(DecodeError):
            return beside.ticket_of(env.unpack(self.element).meta)
        return None

    @property
    def weight(self) -> int:
        """Bytes that it takes to send it."""
        return len(self.member) + len(self.body or b"")

    @property
    def cause(self) -> str:
        """Why it was given up: ATTEMPTS, POISON, BURIED, …"""
        return _text(self.note.get("cause"))

    @property
    def error(self) -> str:
        """The last failure, in one line."""
        return _text(self.note.get("error"))

    @property
    def exception(self) -> str:
        """The class of the exception that it died of, if it was one."""
        match = None if self.cause in _WITHOUT_EXCEPTION else _EXCEPTION.match(self.error)
        return match[1] if match else ""

    @property
    def at(self) -> int:
        """When it died, server Unix ms; kept within the calendar, as anybody may have written the score."""
        return int(min(max(float(self.score), 0.0), 1e14))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else repr(value)


def identity(element: bytes) -> bytes:
    """16 bytes that are the same for every copy of a message, whatever its counters and its last error are, and
    different for two messages, also if both were given the same id. One that cannot be read is a copy of none."""
    try:
        e = env.unpack(element)
        meta = msgpack.packb({name: value for name, value in e.meta.items() if name != "e"})
        same: bytes = e.id + meta + e.body
    except (DecodeError, TypeError, ValueError, OverflowError):
        same = element[:9] + element[env.CHECKED_FROM :] if env.is_envelope(element) else element
    return sha1(same, usedforsecurity=False).digest()[:16]


# -- finding them -------------------------------------------------------------------------------------------


class LetterWalk:
    """Through the dead letters, oldest first, in steps until ``done``. ``since`` and ``until``: only those that
    died in this time, server ms. What dies meanwhile is met too, unless ``until`` ends before."""

    def __init__(self, keys: Keys, *, since: int | None = None, until: int | None = None) -> None:
        low, high = "-inf" if since is None else str(since), "+inf" if until is None else str(until)
        self._walk = SortedWalk(keys.dead, low=low, high=high, queue=keys.queue)

    @property
    def done(self) -> bool:
        return self._walk.done

    def step_g(self) -> Flow[list[Letter]]:
        """The next letters: at most 250, or 256 kB, or one that is larger."""
        return [Letter.read(*member) for member in (yield from self._walk.step_g())]


def chunks(letters: Sequence[Letter], most: int = TOGETHER) -> Iterator[Sequence[Letter]]:
    """Split into what one script call may take, and ``most``."""
    start, size = 0, 0
    for end, letter in enumerate(letters):
        if end > start and (end - start >= min(most, TOGETHER) or size + letter.weight > defaults.SCRIPT_BYTES):
            yield letters[start:end]
            start, size = end, 0
        size += letter.weight
    if start < len(letters):
        yield letters[start:]


# -- commands -----------------------------------------------------------------------------------------------

#: A verb for some letters: what makes its Command. It parses to one bool a letter: whether it was done.
Verb = Callable[[Keys, str, Sequence[Letter]], Command]


def revive(keys: Keys, who: str, letters: Sequence[Letter]) -> Command:
    """Back to ready, behind what waits, the first one named to be claimed first, with all attempts before it."""
    words = (word for x in letters for word in (x.member, x.start + 1, x.id, _short(x.cause)))
    return _command(scripts.revive, keys, (keys.ready, keys.dead), letters, (who, _WINDOW, *words), results=True)


def discard(keys: Keys, who: str, letters: Sequence[Letter]) -> Command:
    """Gone for good, with their bodies."""
    bodies = [_body(keys, letter) for letter in letters]
    words = (
        word for x, body in zip(letters, bodies, strict=True) for word in (x.member, x.id, _short(x.cause), body)
    )
    return _command(scripts.discard, keys, (keys.dead,), letters, (who, *words), bodies)


def restore(keys: Keys, who: str, letters: Sequence[Letter]) -> Command:
    """In again, from an export, with their bodies. QueueFull if Redis is out of memory: then none is in."""
    bodies = [_body(keys, letter) for letter in letters]
    words = (
        word
        for x, body in zip(letters, bodies, strict=True)
        for word in (x.member, x.score, x.id, _short(x.cause), body, x.body or b"")
    )
    return _command(scripts.restore, keys, (keys.dead,), letters, (who, _WINDOW, *words), bodies)


def _body(keys: Keys, letter: Letter) -> str:
    """The key of its body, if that lies beside the list."""
    ticket = letter.ticket
    return "" if ticket is None else beside.key_of(keys, ticket)


def _command(
    script: scripts.Script,
    keys: Keys,
    places: tuple[str, ...],
    letters: Sequence[Letter],
    args: tuple[Arg, ...],
    bodies: Sequence[str] = (),
    *,
    results: bool = False,
) -> Command:
    markers = (keys.marker(letter.identity) for letter in letters)
    told = (keys.results,) if results else ()
    names = (*places, keys.events, keys.stats, *told, *markers, *filter(None, bodies))

    def parse(reply: Any) -> list[bool]:
        return [flag == 1 for flag, _ in zip(reply, letters, strict=True)]

    return Command(script, names, args, parse, idempotent=True, queue=keys.queue)


def _short(text: str) -> str:
    return env.storable(text[:100])


# -- flows --------------------------------------------------------------------------------------------------


def carry_out_g(keys: Keys, verb: Verb, who: str, letters: Sequence[Letter]) -> Flow[list[bool]]:
    """One verb for as many letters as one call may take; says of each whether we did it.

    ``who`` is a name that nobody else has. A call whose answer was lost is repeated, and then finds nothing to
    do; the ledger tells that it was us.
    """
    command = verb(keys, who, letters)
    done: list[bool] = yield command
    if all(done):
        return done
    ours: set[str] = set()
    with suppress(ReliqError):  # a ledger that cannot be read fails nothing
        ours = yield _ledger_of(keys, command.name, who)
    return [was or letter.id in ours for was, letter in zip(done, letters, strict=True)]


def _ledger_of(keys: Keys, event: str, who: str) -> Command:
    """Parses to the ids of the latest events of this kind that are ours."""

    def parse(reply: Any) -> set[str]:
        entries = (dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in reply)
        wanted = (event.encode(), who.encode())
        return {e[b"id"].decode() for e in entries if (e.get(b"event"), e.get(b"consumer")) == wanted}

    args = ("+", "-", "COUNT", defaults.SCRIPT_ELEMENTS)
    return Command("XREVRANGE", (keys.events,), args, parse, idempotent=True, queue=keys.queue)


def revive_g(keys: Keys, id: str, who: str) -> Flow[bool]:
    """Revive the letter of this id; False if there is none. Reads dead letters until it is found."""
    wanted, walk = env.named_id(id).hex(), LetterWalk(keys)
    while not walk.done:
        for letter in (yield from walk.step_g()):
            if letter.id == wanted:
                return (yield from carry_out_g(keys, revive, who, [letter]))[0]
    return False


class Event(NamedTuple):
    """One entry of the ledger: when (server Unix ms), what, by whom, and a word about it."""

    at: int
    event: str
    consumer: str
    detail: str


def history_g(keys: Keys, ids: set[str]) -> Flow[dict[str, list[Event]]]:
    """What the ledger still knows about some messages, oldest first."""
    found: dict[str, list[Event]] = {id: [] for id in ids}
    start = "-"
    while True:
        args = (start, "+", "COUNT", _LEDGER_PAGE)
        page = yield Command("XRANGE", (keys.events,), args, idempotent=True, queue=keys.queue)
        for noted in ledger.read(page):
            if noted["id"] in found:
                found[noted["id"]].append(Event(noted["at"], *(noted.get(n, "") for n in Event._fields[1:])))
        if len(page) < _LEDGER_PAGE:
            return found
        start = "(" + page[-1][0].decode()
