"""All that waits in a queue, removed: it is set aside as a whole first, in one step, and nobody claims from there.

What is put meanwhile stays. A purge that was cut short has left something aside, which no worker looks at; the
next purge of that queue removes it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from typing import Final, NamedTuple

from reliq import defaults
from reliq.core import beside, scripts
from reliq.core import envelope as env
from reliq.core.command import Arg, Command, Flow
from reliq.core.fsck.bodies import ticket_of
from reliq.core.keys import Keys
from reliq.core.waiting import Caller
from reliq.core.walk import TOGETHER
from reliq.errors import ConfigError, QueueHeld

_PURGE: Final = scripts.load(
    "purge", after=("envelope", "lanes", "unique", "tell"), shape=[(int, int), (int, bytes, ...)]
)
_HELD: Final = 2
STATES: Final = ("ready", "later")


class Purged(NamedTuple):
    """A message that is about to be removed: where it was, and its due time (server ms) in later."""

    state: str
    element: bytes
    score: str = ""


Sink = Callable[[Sequence[Purged]], None]


def purge_g(keys: Keys, states: Sequence[str], caller: Caller, token: str, sink: Sink | None = None) -> Flow[int]:
    """Remove what waits in these states; returns how many messages. ``token``: a word that no other purge has.
    ``sink`` is given each part before it goes, and may raise: then that part, and the rest, are still aside."""
    for state in states:
        if state not in STATES:
            raise ConfigError(f"queue {keys.queue!r}: purge({state!r}): there are {', '.join(STATES)}")
    removed = 0
    # All of it aside before any goes: what waits in later behind a message of its ordering key would else come to
    # ready when that is removed.
    aside = dict.fromkeys(states, 0)
    for state in states:
        moved = False
        while not moved:
            how, left = yield _command(keys, state, "take", caller.name, f"{token} {state}")
            if how == _HELD:
                raise QueueHeld(
                    f"queue {keys.queue!r} cannot be purged: somebody holds it exclusively. End that program first"
                )
            moved = how == 1 or not left
            if moved:
                aside[state] = left
            else:  # that is what an earlier purge has left
                removed += yield from _clear_g(keys, state, left, caller.name, sink)
    for state, left in aside.items():
        removed += yield from _clear_g(keys, state, left, caller.name, sink)
    return removed


def _clear_g(keys: Keys, state: str, left: int, who: str, sink: Sink | None) -> Flow[int]:
    """Remove what is aside, so many, part by part; returns how many of them were messages."""
    removed = 0
    while left:
        before = left
        bells, left = yield from _part_g(keys, state, who, sink)
        removed += max(0, before - left - bells)
    return removed


def _part_g(keys: Keys, state: str, who: str, sink: Sink | None) -> Flow[tuple[int, int]]:
    """Remove a part of what is aside: how many in it were no messages, and how many are left then."""
    bounds = (TOGETHER, defaults.SCRIPT_BYTES)
    is_set, *found = yield _command(keys, state, "look", who, *bounds)
    part = list(_purged(state, bool(is_set), found))
    messages = [each for each in part if each.element != env.BELL]
    if sink is not None and messages:
        sink(messages)
    digest = sha1(b"".join(each.element for each in part), usedforsecurity=False).hexdigest()
    tickets = filter(None, (ticket_of(each.element) for each in messages))
    bodies = tuple(beside.key_of(keys, ticket) for ticket in tickets)
    _, left = yield _command(keys, state, "drop", who, *bounds, digest, bodies=bodies)
    return len(part) - len(messages), left


def _purged(state: str, is_set: bool, found: list[bytes]) -> Iterator[Purged]:
    if not is_set:
        yield from (Purged(state, element) for element in found)
    else:
        yield from (Purged(state, *pair) for pair in zip(found[::2], map(bytes.decode, found[1::2]), strict=True))


def _command(keys: Keys, state: str, *words: Arg, bodies: tuple[str, ...] = ()) -> Command:
    k = keys
    place = {"ready": k.ready, "later": k.later}[state]
    names = (place, k.purging(state), k.events, k.stats, k.uniques, k.lanes, k.ready, k.later, k.results, *bodies)
    return Command(_PURGE, names, words, lambda reply: reply, idempotent=True, queue=k.queue)


def letter_of(who: str, purged: Purged, id: bytes) -> bytes:
    """A member of dead, as an export has it, from which the message can be imported and revived. ``id``: 16 bytes
    that are never used again, for a raw body, which has none; equal ones are several."""
    element = purged.element
    if not env.is_envelope(element):
        element = env.pack(id, element, {"r": True})
    due = f", due {purged.score}" if purged.score else ""
    note: env.Meta = {"id": element[env.CHECKED_FROM : env.META_FROM].hex(), "cause": "PURGED", "worker": who}
    return env.join_note(note | {"error": f"purged from {purged.state}{due}"}, element)
