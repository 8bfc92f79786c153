"""The type of a message, by which its handler is chosen, and what becomes of one that nobody handles.

Such a message goes into later by the trip after the one that brought it, with a pause that grows each time. It was
in no handler's hands, so that is no attempt and no delivery. Its meta counts how often that was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.errors import ConfigError

#: The key in the meta: the type, as its put says; and how often it went back because nobody handles that.
KEY: Final = "h"
TIMES_KEY: Final = "n"
#: The cause of a dead letter that no handler took.
NO_HANDLER: Final = "NO_HANDLER"
#: What becomes of a message that nobody handles.
WAIT, BURY = "wait", "bury"
#: The field of stats that tells of the last one: server ms, and its type.
MARK: Final = "no_handler"

Rule = Callable[[Any], object]


def checked(type: object, where: str) -> str:
    """A type, as ``put(type=)`` and ``ack(type=)`` take it."""
    if not isinstance(type, str) or not 0 < len(type) <= 100 or not type.isprintable():
        raise ConfigError(f"{where}(type={type!r:.120}): a word of 1 to 100 characters, such as 'welcome'")
    return type


def rule(said: Rule | str | None, queue: str) -> Rule | None:
    """What ``Queue(route=)`` says of bodies: a function of them, or the name of a field that they have."""
    if said is None:
        return None
    if callable(said):
        return said
    if not isinstance(said, str) or not said:
        raise ConfigError(
            f"queue {queue!r}: route={said!r}: the name of the field of a body that holds its type, or a function "
            "of the body"
        )
    return lambda body: body.get(said) if isinstance(body, Mapping) else None


def checked_unrouted(said: object, queue: str) -> str:
    """What ``Queue(unrouted=)`` says."""
    if said not in (WAIT, BURY):
        raise ConfigError(
            f"queue {queue!r}: unrouted={said!r}: what becomes of a message that no handler takes: {WAIT!r} (it "
            f"goes back for a while) or {BURY!r} (it is dead-lettered as {NO_HANDLER})"
        )
    return str(said)


def type_of(meta: env.Meta) -> str | None:
    """The type that a message carries."""
    found = meta.get(KEY)
    return found if isinstance(found, str) else None


def type_by(rule: Rule | None, body: Any) -> str | None:
    """The type that a body has by the rule of its queue; what is no text counts as none. Raises what that does."""
    found = None if rule is None else rule(body)
    return found if isinstance(found, str) else None


def times_of(meta: env.Meta) -> int:
    """How often it went back because nobody handles its type."""
    found = meta.get(TIMES_KEY)
    return found if type(found) is int and found > 0 else 0


def pause(times: int) -> float:
    """Seconds that it is away after it went back so often before."""
    most = defaults.UNROUTED_MOST
    return float(min(most, defaults.UNROUTED_FIRST * 2 ** min(times, 30)))


def words(type: str | None) -> str:
    """A type, in a sentence."""
    return "no type" if type is None else f"type {env.storable(type)[:100]!r}"


class Unrouted(NamedTuple):
    """The last message of a queue that went back because nobody handles its type: when (server ms), which type."""

    at: int
    type: str

    def goes_on(self, now: int) -> bool:
        """Whether it would have come back since, if it had not found a handler."""
        return now - self.at <= (defaults.UNROUTED_MOST + 120) * 1000


def unrouted(keys: Keys) -> Command:
    """Parses to Unrouted, or None if there was none."""

    def parse(reply: Any) -> Unrouted | None:
        at, _, type = (reply or b"").decode("utf-8", "replace").partition(" ")
        return Unrouted(int(at), type) if at.isdecimal() else None

    return Command("HGET", (keys.stats,), (MARK,), parse, idempotent=True, queue=keys.queue)
