"""Messages with the same ordering key: handed out one at a time, in the order in which they were put.

The first one has the turn of its key from its claim until it ends: while a handler has it, while it waits to be
tried again, while its worker is dead and nobody has reaped it. What comes to be claimed meanwhile waits in
``later``, where no clock reaches it (``PARKED`` and above), and the script that ends the one before puts it at the
head of ready (lua/lanes.lua).
"""

from __future__ import annotations

from hashlib import sha1
from typing import Any, Final, NamedTuple

from reliq.core import envelope as env
from reliq.core import scripts
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys
from reliq.errors import ConfigError

_TURN: Final = scripts.load("turn", after=("envelope", "lanes"), shape=frozenset({0, 1, 2}))

#: The ordering key in the meta.
KEY: Final = "o"
#: Scores of ``later`` from here on are no times; what has one waits for its turn.
PARKED: Final = 4_000_000_000_000_000
_LONGEST: Final = 500


def key_of(meta: env.Meta) -> str | None:
    """The ordering key of a message with this meta, if it has one."""
    found = meta.get(KEY)
    return found if isinstance(found, str) else None


def check(key: object) -> str:
    """``key`` if it may be one; else ConfigError."""
    if not isinstance(key, str) or not 0 < len(key) <= _LONGEST:
        raise ConfigError(f"put(ordering_key={key!r:.120}): a text of 1 to {_LONGEST} characters")
    if key != env.storable(key):
        raise ConfigError(f"put(ordering_key={key!r}): it is no text that UTF-8 can carry; spell it otherwise")
    return key


def waits(score: float) -> bool:
    """Whether what has this score in ``later`` waits for its turn."""
    return score >= PARKED


class Place(NamedTuple):
    """Where a message waits for its turn. ``holder``: the id (hex) of the one that has it; "" if nobody has, which
    is wrong. ``before``: how many wait in front of it."""

    key: str
    holder: str
    before: int


def place_g(keys: Keys, key: str, score: int | None = None) -> Flow[Place]:
    """Where the message with this ordering key waits that has this score in ``later``; None: at the end of all."""
    digest = sha1(key.encode(), usedforsecurity=False).hexdigest()
    end = ":" if score is None else f"{score:016d}"  # a colon stands behind all digits
    span = (f"[{digest}", f"({digest}{end}")
    replies = yield [
        Command("HGET", (keys.uniques,), (turn_field(key),), idempotent=True, queue=keys.queue),
        Command("ZLEXCOUNT", (keys.lanes,), span, int, idempotent=True, queue=keys.queue),
    ]
    holder, before = all_of(replies)
    return Place(key, (holder or b"").decode("ascii", "replace"), before)


def turn_field(key: str) -> str:
    """Where ``uniques`` says which message has the turn of this key."""
    return "=" + key


def go_on(keys: Keys, key: str, holder: str) -> Command:
    """Let the turn of a key go on, as ``holder`` (an id in hex, or "": nobody) is nowhere. Parses to 1: the next
    one is ready; 2: nobody waited; 0: somebody else has it by now."""
    names = (keys.uniques, keys.lanes, keys.ready, keys.later)

    def parse(reply: Any) -> int:
        return int(reply)

    return Command(_TURN, names, (key, holder), parse, idempotent=True, queue=keys.queue)
