"""Checks of a queue: who works on it, what lies in the wrong place, what has waited too long."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import routing
from reliq.core.doctor.facts import QueueFacts, again
from reliq.core.doctor.finding import CannotSee, Seen, check, seen
from reliq.core.flows import ConsumerInfo
from reliq.core.keys import SCHEMA, Keys
from reliq.core.reasons import Reason
from reliq.core.words import number

#: So long nobody may work on a queue that has something to do: a deployment takes less.
_NOBODY_MS: Final = 5 * 60_000
#: Every worker reaps within a second, cron within its period; what is held for longer is seen to by nobody.
_HELD_MS: Final = 60_000
#: Consumers ask at least every ``block`` seconds, and move at most 1,000 a time.
_OVERDUE_MS: Final = 60_000
_BACKLOG_S: Final = 3600.0


@check(Reason.WRONG_KEY_TYPE, "the types of the keys")
def types(queue: QueueFacts) -> Iterator[Seen]:
    for key, wanted, found in seen(queue.types):
        if found not in (wanted, "none"):
            yield Seen(
                "error",
                f"{key} is a {found}, and should be a {wanted}",
                f"if nobody needs it: redis-cli RENAME {shlex.quote(key)} {shlex.quote(key + ':wrong')}; else "
                "choose another queue name or prefix",
            )


@check(Reason.NO_CONSUMERS, "live consumers")
def consumers(queue: QueueFacts) -> Iterator[Seen]:
    waiting = queue.waiting
    if not waiting or queue.live:
        return
    since = max(queue.oldest_ms or 0, queue.now - (seen(queue.soonest) or queue.now))
    how_long = f", for {_span(since)}" if since > 1000 else ""
    yield Seen(
        "error" if since > _NOBODY_MS else "warning",
        f"{_messages(waiting)} to do{how_long}, and no live consumer",
    )


@check(Reason.HELD_BY_DEAD, "what consumers hold whose lease is over")
def held(queue: QueueFacts) -> Iterator[Seen]:
    gone = [c for c in seen(queue.consumers) if (c.dead or c.lease_ms <= 0) and c.doing + c.inbox]
    if not gone:
        return
    over = max(-c.lease_ms for c in gone)
    names = ", ".join(_who(c) for c in gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
    yield Seen(
        "error" if over > max(_HELD_MS, 2000 * queue.lease) else "warning",
        f"{_messages(sum(c.doing + c.inbox for c in gone))} held by {names}; the lease is over for {_span(over)}",
        again(queue, "reap"),
    )


@check(Reason.LATE_RENEWAL, "the renewal of leases")
def renewal(queue: QueueFacts) -> Iterator[Seen]:
    for c in queue.live:
        if c.whole_ms and c.lease_ms * defaults.RENEW_SHARE < c.whole_ms:
            ago = _span(c.whole_ms - c.lease_ms)
            yield Seen("warning", f"{_who(c)} has renewed its lease of {_span(c.whole_ms)} last {ago} ago")


@check(Reason.STRAY_LISTS, "lists without a registration")
def strays(queue: QueueFacts) -> Iterator[Seen]:
    found = seen(queue.strays)
    if found:
        names = ", ".join(sorted(found)[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        yield Seen(
            "warning",
            f"{_messages(sum(found.values()))} in lists of {names}",
            f"{again(queue, 'reap')}, and once more when a lease has passed",
        )


@check(Reason.DEAD_GROWING, "dead letters of the last hour")
def dying(queue: QueueFacts) -> Iterator[Seen]:
    died = seen(queue.died)
    if died:
        yield Seen("warning", f"{died:,} of {seen(queue.dead):,} in the last hour{_causes(queue)}", _look(queue))


@check(Reason.DEAD_LETTERS, "dead letters")
def dead(queue: QueueFacts) -> Iterator[Seen]:
    count = seen(queue.dead)
    if count and not seen(queue.died):
        yield Seen("info", f"{_messages(count)} given up, none in the last hour", _look(queue))


def _causes(queue: QueueFacts) -> str:
    if isinstance(queue.ledger, CannotSee) or not queue.ledger.causes:
        return ""
    most = sorted(queue.ledger.causes.items(), key=lambda pair: -pair[1])[:3]
    return f": {', '.join(f'{count:,} {cause}' for cause, count in most)}"


@check(Reason.WORKERS_DIE, "processes that died in the last hour")
def deaths(queue: QueueFacts) -> Iterator[Seen]:
    told = seen(queue.ledger)
    if not told.deaths:
        return
    count, ago = len(told.deaths), f"{_span(queue.now - told.deaths[0])} ago"
    id, times = max(told.lost.items(), key=lambda pair: pair[1], default=("", 0))
    with_it = f"; most often with {id}, {number(times, 'time')}" if id else ""
    yield Seen(
        "warning" if count > 1 else "info",
        f"{number(count, 'worker')} died with messages in hand, the last {ago}{with_it}",
        f"see what that message is: {again(queue, f'explain {id}')}" if id else "",
    )


@check(Reason.ROLLED_BACK, "whether the server has forgotten things")
def rollbacks(queue: QueueFacts) -> Iterator[Seen]:
    told = seen(queue.ledger).rollbacks
    sure = [entry for entry in told if entry[1].startswith("trips")]
    for at, what in (sure or list(told))[:1]:
        yield Seen(
            "warning" if sure else "info",
            f"{_span(queue.now - at)} ago it was found to have forgotten {what}"
            if sure
            else f"{_span(queue.now - at)} ago another process or history answered; whether it lacks anything is "
            "not known",
        )


@check(Reason.NO_HANDLER, "whether there are handlers for all types")
def unrouted(queue: QueueFacts) -> Iterator[Seen]:
    told = seen(queue.ledger).unrouted
    if told and queue.later and routing.Unrouted(*told[0]).goes_on(queue.now):
        kinds = list(dict.fromkeys(routing.words(kind or None) for _, kind in told))
        more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
        yield Seen(
            "warning",
            f"messages of {', '.join(kinds[:3])}{more} go back again and again: no worker has a handler for them",
        )


@check(Reason.OLD_BACKLOG, "the age of the oldest message")
def backlog(queue: QueueFacts) -> Iterator[Seen]:
    limit = _BACKLOG_S if queue.max_age is None else queue.max_age
    oldest = queue.oldest_ms
    if oldest is not None and oldest > limit * 1000:
        yield Seen(
            "info" if queue.max_age is None else "warning",
            f"the next of {_messages(seen(queue.ready) + seen(queue.shared))} was put {_span(oldest)} ago",
        )


@check(Reason.OVERDUE, "what is scheduled")
def overdue(queue: QueueFacts) -> Iterator[Seen]:
    soonest = seen(queue.soonest)
    if soonest is not None and queue.now - soonest > _OVERDUE_MS:
        yield Seen("warning", f"{_messages(seen(queue.due))} due, the first for {_span(queue.now - soonest)}")


@check(Reason.TICKS_LATE, "the ticks of schedules")
def ticks(queue: QueueFacts) -> Iterator[Seen]:
    tick = seen(queue.tick)
    if tick is not None and queue.now - tick > defaults.TICK_GRACE * 1000:
        late = _span(queue.now - tick)
        yield Seen("warning", f"the first one is due for {late}", again(queue, "schedule ls"))


@check(Reason.NEWER_FORMAT, "the format of messages")
def newer(queue: QueueFacts) -> Iterator[Seen]:
    for element in (seen(queue.head), seen(queue.newest)):
        if element is not None and env.is_envelope(element) and element[4] > env.VERSION:
            yield Seen("warning", f"a message of format {element[4]} waits; this release reads {env.VERSION}")
            return
    died = 0 if isinstance(queue.ledger, CannotSee) else queue.ledger.causes.get("UNSUPPORTED_VERSION", 0)
    if died:
        yield Seen("warning", f"{_messages(died)} died of it in the last hour", _look(queue))


@check(Reason.NEWER_SCHEMA, "the schema of the keys")
def schema(queue: QueueFacts) -> Iterator[Seen]:
    theirs, ours = (".".join(map(str, version)) for version in (queue.schema, SCHEMA))
    if queue.schema[0] > SCHEMA[0]:
        yield Seen(
            "error",
            f"its keys have schema {theirs}; this release knows {ours}, so its puts and consumers are refused",
            "upgrade every program that runs this release; what waits is kept meanwhile",
        )
    elif queue.schema > SCHEMA:
        yield Seen(
            "warning",
            f"its keys have schema {theirs}; this release knows {ours}, and works beside it",
            "upgrade this program, too: it overlooks what is new",
        )


@check(Reason.OTHER_LIST, "the list beside an adopted one")
def beside(queue: QueueFacts) -> Iterator[Seen]:
    if queue.keys.key is None or not (count := seen(queue.beside)):
        return
    usual = Keys(queue.keys.queue, queue.keys.prefix).ready
    move = f"redis-cli LMOVE {shlex.quote(usual)} {shlex.quote(queue.keys.ready)} RIGHT LEFT"
    yield Seen(
        "warning",
        f"{_messages(count)} put by a Queue({queue.name!r}) without key={queue.keys.key!r}",
        f"name key= there too, and once for each: {move}",
    )


def _who(consumer: ConsumerInfo) -> str:
    return f"{consumer.name} ({consumer.who})" if consumer.who else consumer.name


def _look(queue: QueueFacts) -> str:
    return again(queue, "dead ls")


def _messages(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"


def _span(ms: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2 h``, ``5 d``"""
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


CHECKS: Final = (
    *(
        types,
        consumers,
        held,
        renewal,
        strays,
        deaths,
        dying,
        dead,
        rollbacks,
        unrouted,
        backlog,
        overdue,
        ticks,
        newer,
        schema,
        beside,
    ),
)
