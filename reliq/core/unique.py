"""One message per key: at most one waits (or is worked on) at a time, or is put within a time.

Of one that is unique until it is done, or started, the queue's hash ``uniques`` knows: ``+key`` is the id of the
message that has the key, and ``-id`` stands for a message that was replaced, by the id of which. A message carries
its key (``u`` in its meta), so whatever ends it frees that, in the same script. Before it is handed over, a
consumer has it *begun*: that frees what is held until the start, and tells if it was replaced. For a time there is
a string that ends by itself; of that a message knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from typing import Any, Final, NamedTuple

import msgpack

from reliq.core import envelope as env
from reliq.core import scripts
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.message import Message
from reliq.core.ops import Only, accepted
from reliq.errors import ConfigError, given

#: The key in the meta: [key, 1 if it is held until the start and not until the end].
KEY: Final = "u"
DONE, STARTED = "done", "started"
SKIP, REPLACE, EXTEND = "skip", "replace", "extend"
_LONGEST: Final = 500


@dataclass(frozen=True)
class Unique:
    """What makes a message the only one of its ``key`` (a text of 1 to 500 characters).

    ``until``: "done" (default; until it is acked, dead-lettered or cancelled) or "started" (until its handler
    begins; whoever puts then is heard again). ``seconds``: instead, so long after the put, whatever becomes of it.
    ``on_conflict``, if another one has the key: "skip" puts nothing; "replace" (with ``until``) puts this one, and
    the other is dropped unless its handler has begun; "extend" (with ``seconds``) puts nothing, and the time
    begins anew. The receipt of the put says what has happened (but for the id of the replaced one, if the answer
    got lost and the put was repeated).
    """

    key: str
    until: str = ""
    seconds: float | None = None
    on_conflict: str = SKIP

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not 0 < len(self.key) <= _LONGEST:
            raise ConfigError(f"Unique(key={self.key!r}): a text of 1 to {_LONGEST} characters")
        if self.key != env.storable(self.key):
            raise ConfigError(f"Unique(key={self.key!r}): it is no text that UTF-8 can carry")
        if self.seconds is None:
            object.__setattr__(self, "until", self.until or DONE)
        elif self.until:
            raise ConfigError(f"Unique({self.key!r}): until={self.until!r} or seconds={self.seconds!r}, not both")
        elif isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float):
            raise ConfigError(f"Unique({self.key!r}): seconds={given(self.seconds)}: a number of seconds")
        elif not 0.001 <= self.seconds < 1e10:
            raise ConfigError(f"Unique({self.key!r}): seconds={self.seconds!r}: 0.001 or more")
        if self.until not in ("", DONE, STARTED):
            raise ConfigError(f"Unique({self.key!r}): until={self.until!r}: 'done' or 'started'")
        allowed = (SKIP, EXTEND) if self.seconds is not None else (SKIP, REPLACE)
        if self.on_conflict not in allowed:
            first, second = map(repr, allowed)
            kind = "seconds" if self.seconds is not None else "until"
            raise ConfigError(
                f"Unique({self.key!r}): on_conflict={self.on_conflict!r}: with {kind} {first} or {second}"
            )

    @property
    def meta(self) -> env.Meta:
        """What its message carries."""
        return {KEY: [self.key, int(self.until == STARTED)]} if self.until else {}

    def only(self, keys: Keys, id: bytes) -> Only:
        """What the put of the message with this id says."""
        ms = 0 if self.seconds is None else round(self.seconds * 1000)
        words = bytes(msgpack.packb([self.on_conflict, ms, self.key, id.hex()]))
        read = partial(placed, keys.queue)
        if self.until:
            return Only(keys.uniques, words, read)
        return Only(keys.unique(sha1(self.key.encode(), usedforsecurity=False).digest()[:16]), words, read)


class Placed(NamedTuple):
    """What became of a put of a unique message. ``kept``: the id of the one that had the key, so that nothing was
    put; ``replaced``: the id of the one that gives way to this one."""

    kept: str = ""
    replaced: str = ""


def placed(queue: str, reply: Any) -> Placed:
    """What the put's script says."""
    if not isinstance(reply, list):
        accepted(queue, has_body=True)(reply)  # which raises if it was not
        return Placed()
    how, id = reply
    return Placed(**{how.decode(): id.decode()})


class Claim(NamedTuple):
    """What a message holds."""

    key: str
    until_started: bool


def claim_of(meta: env.Meta) -> Claim | None:
    """What a message with this meta holds, if anything that can be read."""
    found = meta.get(KEY)
    if isinstance(found, list) and len(found) == 2 and isinstance(found[0], str):
        return Claim(found[0], found[1] == 1)
    return None


def begin(keys: Keys, consumer: str, messages: Sequence[tuple[bytes, Claim]]) -> Command:
    """Have messages begun, before they are handed over: (id, what it holds) of each. Parses to a list of whether
    each may be; those that were replaced may not. To do so again changes nothing."""
    words = (word for id, claim in messages for word in (id.hex(), claim.key, int(claim.until_started)))

    def parse(reply: Any) -> list[bool]:
        return [may == 1 for may in reply]

    names = (keys.uniques, keys.events)
    return Command(scripts.begin, names, (consumer, *words), parse, idempotent=True, queue=keys.queue)


class Uniques:
    """The unique ones among what one consumer holds."""

    def __init__(self) -> None:
        self._claims: dict[bytes, Claim] = {}  # by element
        #: Messages that are to be begun.
        self.unbegun: dict[Message, Claim] = {}

    def __bool__(self) -> bool:
        return bool(self._claims)

    def expect(self, element: bytes, claim: Claim) -> None:
        """This element is a unique message."""
        self._claims[element] = claim

    def awaits(self, message: Message) -> bool:
        """Whether the message has to be begun before it is handed over; then it is ``unbegun`` from here on."""
        claim = self._claims.get(message.element)
        if claim is None:
            return False
        self.unbegun[message] = claim
        return True

    def frees(self, ended: Iterable[bytes]) -> Iterator[tuple[str, str]]:
        """(id, key) of those among these elements that hold one."""
        for element in ended:
            if (claim := self._claims.get(element)) is not None:
                yield element[env.CHECKED_FROM : env.META_FROM].hex(), claim.key

    def forget(self, message: Message) -> None:
        """It is not held any more."""
        self._claims.pop(message.element, None)
        self.unbegun.pop(message, None)

    def clear(self) -> None:
        """Nothing is."""
        self._claims.clear()
        self.unbegun.clear()
