"""Turns of ordering keys that nobody has, or that are had by messages which are nowhere: who waits behind them
would wait for ever. Tenants and groups with something that waits, of which no trip knows. And places of tenants
that are taken by messages which nobody has in hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import lanes, ops
from reliq.core.command import Command, Flow
from reliq.core.explain import explain_g
from reliq.core.fsck.finding import Context, Finding
from reliq.core.reasons import Reason
from reliq.errors import DecodeError

_NOWHERE = ("absent", "done", "removed", "dead", "cancelled")


class Turns:
    """Who has the turn of which key, as the queue says, and which of them, and who that waits, a scan has met."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._holders: dict[str, bytes] = {}  # by key: the id
        self._met: set[str] = set()
        self._waiting: set[str] = set()
        self._places: dict[bytes, str] = {}  # by id: the tenant
        self._in_turn: set[str] | None = None  # tenants and groups, as ``turns`` has them; None: not read
        self._lined_up: set[lanes.Line] = set()  # those in later that are not

    def read_g(self) -> Flow[None]:
        """Read it, in bounded steps; before the messages, so that none is missed that ends meanwhile."""
        k, cursor = self._context.keys, -1
        while cursor != 0:
            args = (max(cursor, 0), "MATCH", "[=@]*", "COUNT", defaults.SCRIPT_ELEMENTS)
            reply: Any = yield Command("HSCAN", (k.uniques,), args, idempotent=True, queue=k.queue)
            cursor = int(reply[0])
            for field, id in zip(reply[1][::2], reply[1][1::2], strict=True):
                if field[:1] == b"@" and len(field) == 33:
                    self._places[bytes.fromhex(field[1:].decode())] = id.decode("utf-8", "replace")
                elif field[:1] == b"=" and len(id) == 32:
                    self._holders[field[1:].decode("utf-8", "replace")] = bytes.fromhex(id.decode())
        start, step = 0, defaults.SCRIPT_ELEMENTS
        self._in_turn = set()
        while some := (yield ops.page(k.turns, start, start + step - 1, "ZRANGE"))[::2]:
            self._in_turn |= {member.decode("utf-8", "replace") for member in some}
            start += step  # who moves meanwhile may be missed: that is looked at again

    def met(self, state: str, element: bytes) -> None:
        """A message is there."""
        if state == "doing" and self._places:
            self._places.pop(element[env.CHECKED_FROM : env.META_FROM], None)
        if element[env.META_FROM] == 0x80 or not (self._holders or state == "later"):  # an empty meta
            return
        try:
            meta = env.unpack(element).meta
        except DecodeError:
            return
        if state == "later" and self._in_turn is not None:
            self._lined_up |= {line for line in lanes.lines_of(meta) if line.member not in self._in_turn}
        if (key := lanes.key_of(meta)) is None or state == "dead":
            return
        if self._holders.get(key) == element[env.CHECKED_FROM : env.META_FROM]:
            self._met.add(key)
        elif state == "later":
            self._waiting.add(key)

    def left(self, most: int) -> list[Finding]:
        """Those that are not had by a message which was met, at most so many."""
        k = self._context.keys
        places = [
            LostPlace(self._context, k.uniques, tenant, id.hex()) for id, tenant in [*self._places.items()][:most]
        ]
        lost = [LostLine(self._context, k.turns, line) for line in sorted(self._lined_up)[:most]]
        return [*self._left(most), *lost, *places]

    def _left(self, most: int) -> list[LostTurn]:
        had = [(key, id.hex()) for key, id in self._holders.items() if key not in self._met]
        nobody = [(key, "") for key in sorted(self._waiting - self._holders.keys())]
        return [LostTurn(self._context, self._context.keys.lanes, *each) for each in [*had, *nobody][:most]]


@dataclass
class LostTurn(Finding):
    """The turn of an ordering key; ``holder``: the id (hex) of the message that has it, or ""."""

    ordering_key: str
    holder: str
    waiting: int = 0
    code = Reason.LOST_TURN

    @property
    def evidence(self) -> str:
        whose = f"message {self.holder} has, which is on its way no more" if self.holder else "nobody has"
        return f"{self.waiting:,} wait for the turn of the ordering key {self.ordering_key!r}, which {whose}"

    @property
    def action(self) -> str:
        return "give it to the one that was put first, at the head of ready"

    def look_g(self) -> Flow[bool]:
        k = self.context.keys
        place = yield from lanes.place_g(k, self.ordering_key)
        self.waiting = place.before
        if place.holder != self.holder:
            return False
        if not self.holder:
            return place.before > 0
        found = yield from explain_g(k, self.holder)
        return found.state in _NOWHERE

    def repair_g(self) -> Flow[bool]:
        if not (yield from self.look_g()):
            return False
        done: int = yield lanes.go_on(self.context.keys, self.ordering_key, self.holder)
        return done != 0


@dataclass
class LostLine(Finding):
    """A tenant, or a group, of which something waits that no trip will ever take."""

    line: lanes.Line
    waiting: int = 0
    code = Reason.LOST_TURN

    @property
    def evidence(self) -> str:
        return f"{self.waiting:,} of {self.line} wait, and nothing says when it is their {self.line.awaits}"

    @property
    def action(self) -> str:
        return "let them come together now" if self.line.is_group else "let the tenant be in turn"

    def look_g(self) -> Flow[bool]:
        self.waiting, is_lost = yield from lanes.lost_g(self.context.keys, self.line)
        return is_lost

    def repair_g(self) -> Flow[bool]:
        if not (yield from self.look_g()):
            return False
        return (yield from lanes.line_up_g(self.context.keys, self.line))


@dataclass
class LostPlace(Finding):
    """A place of a tenant; ``holder``: the id (hex) of the message that has it."""

    tenant: str
    holder: str
    code = Reason.LOST_PLACE

    @property
    def evidence(self) -> str:
        return f"message {self.holder} counts as one of tenant {self.tenant!r} in hand, and nobody has it"

    @property
    def action(self) -> str:
        return "let the place go"

    def look_g(self) -> Flow[bool]:
        k = self.context.keys
        there: Any = yield Command("HGET", (k.uniques,), ("@" + self.holder,), idempotent=True, queue=k.queue)
        if there is None:
            return False
        found = yield from explain_g(k, self.holder)
        return found.state not in ("doing", "moving", "unsearched")

    def repair_g(self) -> Flow[bool]:
        if not (yield from self.look_g()):
            return False
        done: bool = yield lanes.vacate(self.context.keys, self.holder)
        return done
