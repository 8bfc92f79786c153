"""Messages with the same ordering key: handed out one at a time, in the order in which they were put.

The first one has the turn of its key from its claim until it ends: while a handler has it, while it waits to be
tried again, while its worker is dead and nobody has reaped it. What comes to be claimed meanwhile waits in
``later``, where no clock reaches it (``PARKED`` and above), and the script that ends the one before puts it at the
head of ready (lua/lanes.lua).
"""

from __future__ import annotations

from typing import Final

from reliq.core import envelope as env
from reliq.errors import ConfigError

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


def turn_field(key: str) -> str:
    """Where ``uniques`` says which message has the turn of this key."""
    return "=" + key
