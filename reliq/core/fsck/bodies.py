"""Large bodies beside the list: those that no message has, and messages that have none.

A scan sees a body first and the messages after it. A message that is claimed meanwhile may be passed over, as
its consumer takes it out of what is yet to be read. Then a second look finds it in hand, or its body gone with
its ack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from reliq import defaults
from reliq.core import beside, ops, scripts
from reliq.core import envelope as env
from reliq.core.command import Command, Flow
from reliq.core.dead import Letter
from reliq.core.fsck.finding import Context, Finding, Unreadable
from reliq.core.keys import Keys
from reliq.core.reasons import Reason
from reliq.core.walk import ListWalk, SortedWalk
from reliq.errors import ReliqError

_ORPHAN: Final = scripts.load("orphan")
_HAD, _NOBODYS, _TOO_MUCH = 0, 1, 2


def ticket_of(element: bytes) -> bytes | None:
    """The ticket in an element; None if its body is in it, or it cannot be read."""
    try:
        return beside.ticket_of(env.unpack(element).meta) if env.is_envelope(element) else None
    except ReliqError:
        return None


class Bodies:
    """What a scan has met: bodies, and the messages that they belong to."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._alone: set[bytes] = set()  # names of bodies whose message was not met yet
        self._all: set[bytes] = set()
        self._second: set[bytes] | None = None
        self._strays: set[str] | None = None

    def met(self, name: bytes) -> None:
        """There is a body of this name."""
        self._alone.add(name)
        self._all.add(name)

    def are_missed_by(self, element: bytes) -> bool:
        """A message was met; whether it has a body that was not."""
        ticket = ticket_of(element)
        if ticket is None:
            return False
        self._alone.discard(ticket[:16])
        return ticket[:16] not in self._all

    def orphans(self, most: int) -> list[Orphan]:
        """Those whose message was not met, at most so many of them."""
        keys = self._context.keys
        return [Orphan(self._context, keys.body(name), name, self) for name in sorted(self._alone)[:most]]

    @property
    def alone(self) -> int:
        """How many were not met with a message."""
        return len(self._alone)

    def consumers_g(self) -> Flow[list[str]]:
        """Everybody who may hold messages now: who is registered, and who had lists when this was first asked."""
        keys = self._context.keys
        if self._strays is None:
            self._strays, cursor = set(), -1
            while cursor != 0:
                cursor, names = yield ops.scan_lists(keys, max(cursor, 0))
                self._strays.update(names)
        return sorted(self._strays | {name for name, _ in (yield ops.consumers(keys))})

    def has_g(self, name: bytes) -> Flow[bool]:
        """Whether a second walk through all messages that wait meets this one. It is made once for all bodies."""
        if self._second is None:
            self._second = found = set[bytes]()
            for walk in _walks(self._context.keys):
                while not walk.done:
                    for element in _elements((yield from walk.step_g())):
                        ticket = ticket_of(element)
                        if ticket is not None:
                            found.add(ticket[:16])
        return name in self._second


def _walks(keys: Keys) -> Iterable[ListWalk | SortedWalk]:
    """In the order in which messages move."""
    yield SortedWalk(keys.later, queue=keys.queue)
    yield ListWalk(keys.ready, queue=keys.queue)
    yield SortedWalk(keys.dead, queue=keys.queue)


def _elements(found: Iterable[Any]) -> Iterable[bytes]:
    for each in found:
        if isinstance(each[0], int):
            yield each[1]
        else:  # a member of later is an element, and its death note begins none
            yield each.value if env.is_envelope(each.value) else Letter.read(*each).element


@dataclass
class Orphan(Finding):
    """A body beside the list that no message has; ``name``: its 16 bytes."""

    name: bytes
    bodies: Bodies
    size: int = field(init=False, default=0)
    code = Reason.ORPHAN_BODY

    @property
    def evidence(self) -> str:
        return f"{self.key}, a large body of {self.size:,} bytes, belongs to no message"

    @property
    def action(self) -> str:
        return f"delete it, {self.size:,} bytes"

    def _look_g(self, do: bool) -> Flow[int]:
        k = self.context.keys
        names = yield from self.bodies.consumers_g()
        lists = (part(name) for name in names for part in (k.inbox, k.doing))
        keys = (self.key, k.ready, k.later, k.dead, k.consumers, k.events, k.stats, *lists)
        args = (self.name, defaults.SCRIPT_ELEMENTS, defaults.SCRIPT_BYTES, *names)
        command = self._script(_ORPHAN, keys, do, *args)
        found, *size = yield command._replace(parse=None)
        self.size = size[0] if size else self.size
        return int(found)

    def look_g(self) -> Flow[bool]:
        found = yield from self._look_g(False)
        return found == _NOBODYS or (found == _TOO_MUCH and not (yield from self.bodies.has_g(self.name)))

    def repair_g(self) -> Flow[bool]:
        found = yield from self._look_g(True)
        if found == _TOO_MUCH:
            raise ReliqError(
                f"the queue has more than one step can look at ({defaults.SCRIPT_ELEMENTS:,} messages or 256 kB), "
                "to be certain that none has it; say the same again when it is shorter"
            )
        return found == _NOBODYS


@dataclass
class Bodiless(Unreadable):
    """A message in ready or later whose body is gone; ``body``: the key where that should be."""

    body: str = ""

    def _command(self, do: bool) -> Command:
        command = super()._command(do)
        return command._replace(keys=(*command.keys, self.body))
