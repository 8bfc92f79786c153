"""Messages by their id: cancelled, or given another time.

A search finds the message as ``explain`` does: at once where its id says, else by reading everything. Then one
script acts on exactly the bytes that were found, if they still wait there. If the message has moved on in between,
it is looked for again.

A call whose answer was lost is repeated, finds nothing, and the message is looked for again, too. Then the ledger
tells what became of it: that it was cancelled, by whomever; that we have given it another time.

What a consumer has in hand is marked in the record of that consumer (``lua/marks.lua``). Its next trip tells it,
which is at most a second later. However the message leaves its hands then, except by an ack, it ends: by a trip
that says that its handler has failed or given it back, or by the reap that follows the death of its worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from reliq import defaults
from reliq.core import beside, scripts
from reliq.core import envelope as env
from reliq.core.command import Command, Flow
from reliq.core.explain import looks, raw_id
from reliq.core.explain.looks import Found
from reliq.core.explain.search import Search
from reliq.core.keys import Keys
from reliq.core.ops import Due
from reliq.core.shape import FLAG
from reliq.errors import MovedOn, QueueHeld

_DONE: Final = frozenset({0, 1, 2})
_CANCEL: Final = scripts.load("cancel", after=("envelope", "lanes", "unique", "tell", "places"), shape=_DONE)
_CALL_OFF: Final = scripts.load("call_off", after="marks", shape=FLAG)
_RESCHEDULE: Final = scripts.load("reschedule", after=("envelope", "lanes", "places"), shape=_DONE)

#: How often a message that has moved on between a look and what is done to it is looked for again.
_AGAIN: Final = 20
#: Where nobody handles a message.
_WAITS: Final = ("ready", "inbox", "later")


class Caller(NamedTuple):
    """Who cancels or reschedules: host:pid, and a word about it, such as a name or the program."""

    who: str
    word: str = ""

    @property
    def name(self) -> str:
        """Both, in a line."""
        return f"{self.word} ({self.who})" if self.word else self.who


def cancel(keys: Keys, found: Found, caller: Caller) -> Command:
    """Take out a message that waits where it was found. Parses to 1: done; 0: it does not wait there; 2: it is in
    the batch of an exclusive holder."""
    ticket = beside.ticket_of(found.message.meta)
    body = () if ticket is None else (beside.key_of(keys, ticket),)
    args = (*_seen(found), *caller, int(found.place == "ready"))
    return _act(
        _CANCEL, keys, found, (keys.uniques, keys.lanes, keys.ready, keys.later, keys.results, *body), args
    )


def call_off(keys: Keys, found: Found, caller: Caller) -> Command:
    """Mark a message in a consumer's hands as cancelled. Parses to 1: done; 0: it is not in these hands."""
    ticket = beside.ticket_of(found.message.meta)
    names = (keys.doing(found.consumer), keys.session(found.consumer), keys.events)
    body = () if ticket is None else (beside.key_of(keys, ticket),)
    args = (found.head, found.message.id.hex(), *caller, round(defaults.DEDUPE_WINDOW * 1000))
    return Command(_CALL_OFF, (*names, *body), args, idempotent=True, queue=keys.queue)


def reschedule(keys: Keys, found: Found, due: Due, caller: Caller) -> Command:
    """Let a message that waits where it was found become due then. Parses as ``cancel``."""
    how = "at" if due.how == "at" else "in"
    names, args = (keys.ready, keys.later, keys.lanes), (*_seen(found), caller.who, how, due.ms)
    return _act(_RESCHEDULE, keys, found, names, args)


def _seen(found: Found) -> tuple[bytes, int | str, str]:
    """The element, its place from the left of a list, its id."""
    places: dict[str, int | str] = {"later": "", "inbox": 0, "ready": max(0, found.length - 1 - found.position)}
    return found.head, places[found.place], found.message.id.hex()


def _act(
    script: scripts.Script, keys: Keys, found: Found, others: tuple[str, ...], args: tuple[bytes | str | int, ...]
) -> Command:
    where = {"ready": keys.ready, "later": keys.later, "inbox": keys.inbox(found.consumer)}[found.place]
    names = (where, keys.events, keys.stats, keys.consumers, keys.lock, *others)
    return Command(script, names, args, idempotent=True, queue=keys.queue)


def cancel_g(keys: Keys, id: str, caller: Caller) -> Flow[bool]:
    """See ``Queue.cancel``."""
    search = Search(keys, raw_id(id, "cancel"), most=looks.WHOLE)

    def act(found: Found) -> Command:
        return (call_off if found.place == "doing" else cancel)(keys, found, caller)

    done: bool = yield from _until_done_g(search, "cancel", (*_WAITS, "doing"), act)
    return done or _is_cancelled(search)


def reschedule_g(keys: Keys, id: str, due: Due, caller: Caller) -> Flow[bool]:
    """See ``Queue.reschedule``."""
    search = Search(keys, raw_id(id, "reschedule"), most=looks.WHOLE)

    def ours() -> int:
        return sum((each.event, each.consumer) == ("reschedule", caller.who) for each in search.events)

    yield from search.recall_g()
    before = ours()

    def act(found: Found) -> Command:
        return reschedule(keys, found, due, caller)

    done: bool = yield from _until_done_g(search, "reschedule", _WAITS, act)
    return done or ours() > before


def _until_done_g(search: Search, verb: str, places: Sequence[str], act: Callable[[Found], Command]) -> Flow[bool]:
    """Look for a message and act on it where it is; False if it is in none of these places."""
    for _ in range(_AGAIN):
        found = yield from search.quick_g()
        if found is None and not (
            _is_cancelled(search) and env.id_ms(search.id)
        ):  # an id of one's own may come again
            found = yield from search.thorough_g()
            if found is None and not search.certain:
                break
        if found is None or found.place not in places:
            return False
        done = yield act(found)
        if done == 1:
            return True
        if done == 2:
            raise QueueHeld(
                f"queue {search.keys.queue!r}: {verb} of message {search.id.hex()}: it is in the batch that "
                "somebody has in hand who holds the queue exclusively, so nothing was changed. Wait until that is "
                f"done: reliq explain {search.id.hex()}"
            )
    raise MovedOn(
        f"queue {search.keys.queue!r}: {verb} of message {search.id.hex()}: it moved on whenever it was looked "
        "for, so nothing was changed. Say the same again; if that goes on, see why it is put back: "
        f"reliq explain {search.id.hex()}"
    )


def _is_cancelled(search: Search) -> bool:
    """Whether that is the last that happened to it."""
    return search.last is not None and search.last.event == "cancel"
