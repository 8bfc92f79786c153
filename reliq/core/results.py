"""Results: what a handler returned, for whoever has put the message and asked for it, and how far it has come.

A put asks (``w`` in the meta: for how many ms the result is to be kept), and only then anything is written. The
answer is one msgpack map, and stands in a list of one element that ends by itself: ``value``, what the handler
returned; or ``lost``, why that could not be kept, though the message is done; or a death note, with its
``cause``. It is written by the very script by which the message ends, so a settle that comes too late leaves none.
Whoever waits blocks in BLMOVE from that list to itself, which takes nothing away: see ``awaiting``.

Progress is a msgpack value in a key of its own, which goes with the next trip: at most one a message and trip, the
latest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.codec import CODECS, encode
from reliq.core.command import Arg, Command
from reliq.core.keys import Keys
from reliq.core.message import ACK, ASKS, Message, Settle
from reliq.errors import BodyError, BodyTooLarge, ConfigError, given

VALUE, LOST, CAUSE = "value", "lost", "cause"
#: Reports of progress that one trip takes along, each of a few kB at most.
_REPORTS: Final = 32
_PLAIN: Final = CODECS["msgpack"]


def wanted(said: float | bool) -> env.Meta:
    """What the message carries whose put says ``result=``; ConfigError if that is no time."""
    if said is True:
        said = defaults.RESULT
    if said is False:
        return {}
    if not isinstance(said, int | float) or not 0.001 <= said < 1e9:
        raise ConfigError(f"put(result={given(said)}): for how many seconds it is kept, or True: an hour")
    return {ASKS: round(said * 1000)}


def asked(meta: env.Meta) -> int | None:
    """For how many ms the result of a message with this meta is kept; None: nobody has asked."""
    found = meta.get(ASKS)
    return found if type(found) is int and 1 <= found < 10**13 else None


def answer(value: Any) -> bytes:
    """What is kept of a value that a handler returned. It never fails: the message is done."""
    if isinstance(value, Lost):
        return lost(value)
    verb = "written"
    try:
        data = _PLAIN.encode({VALUE: value})
        verb = "read again"  # such as a map with a tuple for a key, or an extension type that is none
        _PLAIN.decode(data)
    except Exception as error:  # noqa: BLE001 - a value may raise anything when it is looked into
        kind = type(value).__name__
        return lost(f"a value of type {kind} cannot be {verb} as msgpack ({error}); return plain data")
    if len(data) > defaults.RESULT_BYTES:
        limit = f"{len(data):,} bytes, and the limit is {defaults.RESULT_BYTES:,}"
        return lost(f"it is {limit}; put it into a store and return its address")
    return data


class Lost(str):
    """Stands for a value that could not be kept; this says why."""

    __slots__ = ()


def value(answer: bytes) -> Any:
    """The value of an answer: Lost, if it has none."""
    found = read(answer)
    found = found if isinstance(found, dict) else {}
    return found[VALUE] if VALUE in found else Lost(found.get(LOST, "nobody can read it"))


def lost(why: str) -> bytes:
    """What is kept of one that cannot be."""
    return _PLAIN.encode({LOST: env.storable(why[:500])})


def why_lost(answer: bytes) -> str | None:
    """Why such an answer has no value; None: it has."""
    return None if len(answer) > 1000 else _PLAIN.decode(answer).get(LOST)


def replaced() -> bytes:
    """What is told of a message that gave way to another one."""
    return _PLAIN.encode({CAUSE: "REPLACED", "error": "another message was put in its place (unique=)"})


def report(value: Any) -> bytes:
    """What is written down of a report of progress; BodyError, BodyTooLarge."""
    try:
        return encode(_PLAIN, value, defaults.PROGRESS_BYTES)
    except BodyTooLarge as error:
        raise BodyTooLarge(
            f"lease.progress(…): {error.args[0].split(';')[0]}; report a number or a short text"
        ) from error
    except BodyError as error:
        raise BodyError(f"lease.progress(…): {error}") from error


def kept(keys: Keys, id: bytes) -> Command:
    """Parses to whether there is an answer that says that the message is done."""

    def parse(reply: list[bytes]) -> bool:
        found = read(reply[0]) if reply else None
        return isinstance(found, dict) and CAUSE not in found

    return Command("LRANGE", (keys.result(id),), (0, 0), parse, idempotent=True, queue=keys.queue)


def progress(keys: Keys, id: bytes) -> Command:
    """Parses to the last report of its handler, or None."""

    def parse(reply: bytes | None) -> Any:
        return None if reply is None else read(reply)

    return Command("GET", (keys.progress(id),), (), parse, idempotent=True, queue=keys.queue)


def read(data: bytes) -> Any:
    """The value, or the text that stands for one which nobody can read."""
    try:
        return _PLAIN.decode(data)
    except Exception:  # noqa: BLE001 - somebody else has written it
        return env.preview(data)


class Results:
    """Those that are asked for of what one consumer holds, and the reports of its handlers."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._ms: dict[bytes, int] = {}  # by element
        self._reports: dict[Message, bytes] = {}  # yet to be sent

    def __bool__(self) -> bool:
        return bool(self._ms or self._reports)

    def expect(self, element: bytes, ms: int) -> None:
        """The put of this element has asked."""
        self._ms[element] = ms

    def are_asked(self, message: Message) -> bool:
        """Whether the put of this one has."""
        return message.element in self._ms

    def report(self, message: Message, data: bytes) -> None:
        """Have this written down by the next trip, if no later one comes before that."""
        self._reports[message] = data

    def words(self, acked: Iterable[Message], sent: Iterable[Settle]) -> Iterator[tuple[str, tuple[Arg, ...]]]:
        """(key, words) of what a trip is to write, which settles these."""
        for message in acked:
            if message.element in self._ms:
                yield self._kept(message.element, answer(None))
        for settle in sent:
            element, is_done = settle.message.element, settle.verb == ACK
            if element in self._ms:
                yield self._kept(element, settle.back if is_done else b"")
            if is_done and settle.detail:  # its idempotency key is done, too
                from reliq.core import idempotency

                id, where = settle.message.id, str(settle.detail)
                yield where.partition(" ")[2], ("mark", id, where, idempotency.done(id, settle.back))
        for message in list(self._reports)[:_REPORTS]:
            key = self._keys.progress(message.envelope.id)
            ms = self._ms.get(message.element, round(defaults.RESULT * 1000))
            yield key, ("report", message.element, f"{ms} {key}", self._reports.pop(message))

    def _kept(self, element: bytes, data: bytes) -> tuple[str, tuple[Arg, ...]]:
        id = element[env.CHECKED_FROM : env.META_FROM]
        key = self._keys.result(id)
        return key, ("keep", id.hex(), f"{self._ms[element]} {key}", data)

    def forget(self, message: Message) -> None:
        """It is not held any more."""
        self._ms.pop(message.element, None)
        self._reports.pop(message, None)

    def clear(self) -> None:
        """Nothing is."""
        self._ms.clear()
        self._reports.clear()
