"""What is held by messages that are nowhere: nobody could put with such a key any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import unique
from reliq.core.command import Command, Flow
from reliq.core.explain import explain_g
from reliq.core.fsck.finding import Context, Finding
from reliq.core.reasons import Reason
from reliq.core.unique import Claim

_NOWHERE = ("absent", "done", "removed")


class Held:
    """What the queue's hash of unique messages says, and which of them a scan has met."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._held: dict[bytes, str] = {}  # by id

    def read_g(self) -> Flow[None]:
        """Read it, in bounded steps; before the messages, so that none is missed that ends meanwhile."""
        k, cursor = self._context.keys, -1
        while cursor != 0:
            args = (max(cursor, 0), "MATCH", "+*", "COUNT", defaults.SCRIPT_ELEMENTS)
            reply: Any = yield Command("HSCAN", (k.uniques,), args, idempotent=True, queue=k.queue)
            cursor = int(reply[0])
            for field, id in zip(reply[1][::2], reply[1][1::2], strict=True):
                if len(id) == 32:
                    self._held[bytes.fromhex(id.decode())] = field[1:].decode("utf-8", "replace")

    def met(self, element: bytes) -> None:
        """A message is there."""
        if self._held:
            self._held.pop(element[env.CHECKED_FROM : env.META_FROM], None)

    def left(self, most: int) -> list[Orphaned]:
        """Those whose message was not met, at most so many."""
        k = self._context.keys
        return [Orphaned(self._context, k.uniques, id, key) for id, key in list(self._held.items())[:most]]


@dataclass
class Orphaned(Finding):
    """A key that is held by a message which is nowhere; ``holder``: its id, 16 bytes."""

    holder: bytes
    only: str
    code = Reason.ORPHAN_UNIQUE

    @property
    def evidence(self) -> str:
        return f"the key {self.only!r} is held by message {self.holder.hex()}, which is nowhere"

    @property
    def action(self) -> str:
        return "let it go, so that the next put with this key is accepted"

    def look_g(self) -> Flow[bool]:
        k = self.context.keys
        name = "+" + self.only
        holder = yield Command("HGET", (k.uniques,), (name,), idempotent=True, queue=k.queue)
        if holder != self.holder.hex().encode():
            return False
        found = yield from explain_g(k, self.holder.hex())
        return found.state in _NOWHERE

    def repair_g(self) -> Flow[bool]:
        if not (yield from self.look_g()):
            return False
        # As if its handler began: that lets go what is still its own.
        yield unique.begin(self.context.keys, self.context.who, [(self.holder, Claim(self.only, True))])
        return True
