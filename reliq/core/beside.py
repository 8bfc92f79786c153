"""Large bodies lie beside the list, each in a key of its own (a claim check), so that no settle sends them back.

The envelope has no body then. The first entry of its meta is a ticket: 16 bytes that name the key and are never
used again, and the size of the encoded body (u32).

A script that is handed a megabyte reads all of it twice, and Redis stands still for milliseconds. So the body is
brought first, by a plain SET that ends by itself; and one script makes both last, the message and its body, or
neither. A put that never gets so far leaves nothing behind. An accepted ack or a cancel deletes one that lasts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.command import Command, in_pieces
from reliq.core.keys import Keys
from reliq.core.message import Message

#: The key in the meta. It stands first, where a script finds it without reading msgpack.
KEY: Final = "b"
#: The cause of a dead letter whose body is gone.
MISSING: Final = "BODY_MISSING"
_TICKET: Final = struct.Struct(">16sI")


class Beside(bytes):
    """The element of a message whose body lies beside it; ``body``: those encoded bytes, ``key``: where."""

    body: bytes
    key: str


def ticket(name: bytes, body: bytes) -> bytes:
    """What stands in the meta for this body. ``name``: 16 bytes that were never used before."""
    return _TICKET.pack(name, len(body))


def checked(element: bytes, key: str, body: bytes) -> Beside:
    """An element with a ticket, and what that stands for."""
    made = Beside(element)
    made.key, made.body = key, body
    return made


def ticket_of(meta: env.Meta) -> bytes | None:
    """The ticket, if the body lies beside the list."""
    found = meta.get(KEY)
    return found if isinstance(found, bytes) and len(found) == _TICKET.size else None


def key_of(keys: Keys, ticket: bytes) -> str:
    """Where the body lies."""
    return keys.body(ticket[:16])


def size_of(ticket: bytes) -> int:
    """Bytes of the body."""
    size: int = _TICKET.unpack(ticket)[1]
    return size


def bring(element: Beside, queue: str) -> Command:
    """Bring the body to where its put looks for it, within the window. A copy that runs late meets the first one,
    and does not end what was made to last since."""
    ms = round(defaults.DEDUPE_WINDOW * 1000)
    command = Command("SET", (element.key,), (element.body, "PX", ms, "NX"), idempotent=True, queue=queue)
    return command._replace(packed=in_pieces(command.words(), element.body))


def fetch(keys: Keys, ticket: bytes) -> Command:
    """Parses to the encoded body, or None if it is gone."""

    def parse(reply: Any) -> bytes | None:
        if reply is not None and not isinstance(reply, bytes):
            raise TypeError("no string")
        return reply

    return Command("GET", (key_of(keys, ticket),), (), parse, idempotent=True, queue=keys.queue)


class Bodies:
    """Those beside the list of what one consumer holds."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._tickets: dict[bytes, bytes] = {}  # by element
        #: Messages whose body is yet to be fetched, and their tickets.
        self.unfetched: dict[Message, bytes] = {}
        #: Messages whose body was not there.
        self.missing: list[Message] = []

    def __bool__(self) -> bool:
        return bool(self._tickets)

    @property
    def next_due(self) -> tuple[Message, bytes] | None:
        """A message whose body is to be fetched now, and its ticket."""
        return next(iter(list(self.unfetched.items())), None)

    @property
    def are_due(self) -> bool:
        """Whether a message waits for its body, or for the certainty that there is none."""
        return bool(self.unfetched or self.missing)

    def is_due(self, message: Message) -> bool:
        """Whether this one does."""
        return message in self.unfetched or message in self.missing

    def expect(self, element: bytes, ticket: bytes) -> None:
        """This element has its body beside the list."""
        self._tickets[element] = ticket

    def awaits(self, message: Message) -> bool:
        """Whether the message has to wait for its body; then it is ``unfetched`` from here on."""
        ticket = self._tickets.get(message.element)
        if ticket is None:
            return False
        self.unfetched[message] = ticket
        return True

    def key(self, message: Message) -> str:
        """Where the body of this one is to be."""
        return key_of(self._keys, self._tickets[message.element])

    def drops(self, acks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
        """(id, key of the body) of those among these elements that have one."""
        for element in acks:
            if (ticket := self._tickets.get(element)) is not None:
                yield element[env.CHECKED_FROM : env.META_FROM].hex(), key_of(self._keys, ticket)

    def forget(self, message: Message) -> None:
        """It is not held any more."""
        self._tickets.pop(message.element, None)
        self.unfetched.pop(message, None)

    def clear(self) -> None:
        """Nothing is."""
        self._tickets.clear()
        self.unfetched.clear()
        self.missing.clear()
