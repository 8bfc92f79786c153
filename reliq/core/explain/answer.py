"""From what a search found to what people are told: the state, the reason, what comes next, what to type."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final

from reliq.core import beside, exclusive, lanes, ops, reasons, results, routing, trace
from reliq.core import envelope as env
from reliq.core.command import Flow
from reliq.core.exclusive import Lock
from reliq.core.explain import looks
from reliq.core.explain.explanation import Explanation
from reliq.core.explain.looks import Event, Found
from reliq.core.explain.search import Search
from reliq.core.explain.timeline import timeline, untold
from reliq.core.gate import Gate
from reliq.core.headers import headers_of
from reliq.core.keys import Keys
from reliq.core.lanes import Gathered, Place, Share
from reliq.core.reasons import Reason
from reliq.core.sample import Pace, pace
from reliq.core.words import duration, number

#: So near to the head a message that somebody died with is passed over for others (trip.lua).
_SUSPECTS_SEEN: Final = 100
START_ONE: Final = "reliq worker MODULE:HANDLER"
#: What was put so long before a rollback was noticed was safe by then, ms.
_FORGETS: Final = 600_000
_Fields = dict[str, Any]


def command(keys: Keys, words: str) -> str:
    """A command for this queue; without the URL, which may hold a password."""
    prefix = f" --prefix {shlex.quote(keys.prefix)}" if keys.prefix != "reliq" else ""
    return f"reliq {words} --queue {shlex.quote(keys.queue)}{prefix}"


def found_g(search: Search, found: Found) -> Flow[Explanation]:
    """Explain a message that was found."""
    record = {}
    if trace.is_traced(found.message.meta):
        yield from search.steps_g()
    if found.consumer:
        record = yield ops.session(search.keys, found.consumer)
    lock = (yield exclusive.lock(search.keys)) if found.place == "ready" else None
    progress = yield results.progress(search.keys, search.id)
    turn, key = None, lanes.key_of(found.message.meta)
    if found.place == "later" and lanes.waits(found.score) and key is not None:
        turn = yield from lanes.place_g(search.keys, key, found.score)
    share, tenant = None, lanes.tenant_of(found.message.meta)
    if found.place == "later" and found.score >= lanes.SHARED and tenant is not None:
        share, turn = (yield from lanes.share_g(search.keys, tenant, found.score)), None
    group, gathered = lanes.group_of(found.message.meta), None
    if found.place == "later" and found.score >= lanes.GROUPED and group is not None:
        gathered, turn, share = (yield from lanes.gathered_g(search.keys, group)), None, None
    told: dict[str, Callable[[], _Fields]] = {
        "ready": lambda: _ready(search, found) | _in_batch(search, found, lock),
        "inbox": lambda: _doing(search, found, record),
        "doing": lambda: _doing(search, found, record),
        "later": lambda: (
            _gathers(search, gathered)
            if gathered
            else _in_lane(search, share)
            if share
            else _awaits_turn(search, turn)
            if turn
            else _later(search, found)
        ),
        "dead": lambda: _dead(search, found),
    }
    fields = {**_message(search, found), **told[found.place](), "progress": progress}
    fields |= _called_off(search, fields, record.get("cancel", ""))
    missing = untold(found.message, search.events)
    if missing and found.place != "dead":
        fields["why"] += f"; {missing} attempts besides those that the ledger tells of"
    return Explanation(search.id.hex(), search.keys.queue, now=search.sight.now, **fields)


def _message(search: Search, found: Found) -> _Fields:
    """What the message says itself."""
    e = found.message
    trace, error = e.meta.get("t"), e.meta.get("e")
    ticket = beside.ticket_of(e.meta)
    away = None if ticket is None else beside.size_of(ticket)
    return {
        "put_at": None if e.meta.get("r") else env.put_ms(e) if e.id == search.id else env.id_ms(search.id),
        "size": found.size + (away or 0),
        "beside": away,
        "raw": bool(e.meta.get("r")),
        "type": routing.type_of(e.meta),
        "ordering_key": lanes.key_of(e.meta),
        "tenant": lanes.tenant_of(e.meta),
        "group": lanes.group_of(e.meta),
        "headers": headers_of(e.meta) or None,
        "trace_id": trace if isinstance(trace, str) else None,
        "error": error if isinstance(error, str) else None,
        "attempt": None if found.place == "dead" else e.failed + 1,
        "deliveries": e.deliveries - (found.place != "doing"),
        "failed": e.failed,
        "released": e.released,
        "lost": e.lost,
        "fence": e.fence,
        **_again(search, e.lost),
        "timeline": timeline(search.id, _told(search), found, search.steps),
    }


def _forgotten(search: Search) -> list[Event]:
    """When the server was found to have forgotten things, of which its put may be one, or what came of it."""
    made = env.id_ms(search.id)
    return [each for each in search.rollbacks if made is not None and 0 <= each.ms - made <= _FORGETS]


def _told(search: Search) -> list[Event]:
    return sorted([*search.events, *_forgotten(search)], key=lambda event: event.ms)


def _again(search: Search, lost: int) -> _Fields:
    """Why it was handed out more than once, if it was; the ledger knows, or ``lost``, what the message counts."""
    events, retries = search.events, sum(each.event == "retry" for each in search.events)
    late = [each for each in events if each.event == "late"]
    reaps = [each for each in events if (each.event, each.detail) == ("reap", "lost")]
    rolled_back = [each for each in _forgotten(search) if each.detail.startswith("trips")]
    if late:
        who, verb = late[-1].consumer, late[-1].detail
        why = f"{who} went on with it when its lease was over; its late {verb} was refused"
        return {"again": Reason.LEASE_LOST, "again_why": why}
    if reaps or lost:
        who = reaps[-1].consumer if reaps else "a worker"
        return {"again": Reason.WORKER_LOST, "again_why": f"{who} was lost with it in hand"}
    if rolled_back:
        ago = duration(search.sight.now - rolled_back[-1].ms)
        why = f"{ago} ago the server had forgotten {rolled_back[-1].detail}: what they did may be done again"
        return {"again": Reason.ROLLED_BACK, "again_why": why}
    if retries:
        why = f"it went back for another attempt, {number(retries, 'time')}"
        return {"again": Reason.RETRY_BACKOFF, "again_why": why}
    return {}


# -- ready --------------------------------------------------------------------------------------------------


def _ready(search: Search, found: Found) -> _Fields:
    going = pace(search.sight.sample, search.sight.samples)
    before, rate = found.position, going.rate if going and going.rate else None
    fields = {"state": "ready", "position": before + 1, "length": found.length, "rate": rate}
    gate = search.sight.gate
    if gate.paused is not None:
        return fields | _paused(search, gate)
    if not search.live:
        return fields | _no_consumers(search)
    if gate.concurrency is not None and search.held >= gate.concurrency:
        return fields | {
            "reason": Reason.LIMITED,
            "why": f"{number(search.held, 'message')} in hand, and the limit is {gate.concurrency} at once",
            "next": "one of those is done, and the next one is claimed",
            "command": command(search.keys, "status"),
        }
    if going is not None and going.stalled:
        return fields | _stalled(search, going)
    if found.message.lost and before < _SUSPECTS_SEEN:
        reason, why = Reason.SUSPECT_WAITS, f"{number(found.message.lost, 'worker')} died with it in hand"
    else:
        reason = Reason.WAITING_TURN
        why = (
            f"{number(before, 'message')} {'is' if before == 1 else 'are'} before it"
            if before
            else "it is the next"
        )
    why += f"; {number(search.live, 'live consumer')}, {number(search.held, 'message')} in hand"
    if gate.rate is not None:
        why += f"; at most {gate.rate:g} a second are claimed"
    return fields | {
        "reason": reason,
        "why": why,
        "next": _turn(before, rate, going),
        "next_at": None if rate is None else search.sight.now + round(before * 1000 / rate),
        "command": command(search.keys, "status"),
    }


def _in_batch(search: Search, found: Found, lock: Lock | None) -> _Fields:
    """What is said instead if it is in the hands of somebody who leaves messages in their place."""
    if lock is None or found.position >= lock.in_hand or search.leases.get(lock.holder, 0) <= search.sight.now:
        return {}
    return {
        "reason": Reason.IN_BATCH,
        "why": f"it is in batch {lock.batch} of {lock.holder}, {number(lock.in_hand, 'message')}, which holds the "
        "queue exclusively",
        "consumer": lock.holder,
        "next": "the batch is done, and removed; or it fails, and comes again",
        "next_at": None,
    }


def _turn(before: int, rate: float | None, going: Pace | None) -> str:
    """When its turn comes."""
    if rate is None or going is None:
        return "a consumer claims it when its turn comes; at an unknown rate: nothing was counted of late"
    return (
        f"its turn comes in about {duration(before * 1000 / rate)}, at {rate:,.3g} messages a second "
        f"as in the last {duration(going.over_ms)}"
    )


def _paused(search: Search, gate: Gate) -> _Fields:
    ago = "" if gate.paused_at is None else f", {duration(search.sight.now - gate.paused_at)} ago"
    return {
        "reason": Reason.PAUSED,
        "why": f"the queue was paused by {gate.paused}{ago}",
        "next": "nothing, until somebody resumes it",
        "command": command(search.keys, "resume"),
    }


def _no_consumers(search: Search) -> _Fields:
    now, ends = search.sight.now, max(search.leases.values(), default=None)
    if ends is None:
        why = "no consumer of this queue is registered"
    elif ends > now:
        why = "the consumers that are registered are leaving"
    else:
        gone = number(len(search.leases), "consumer")
        why = f"no consumer is alive; {gone} registered, the last lease ended {duration(now - ends)} ago"
    return {
        "reason": Reason.NO_CONSUMERS,
        "why": why,
        "next": "nothing, until a worker runs",
        "command": START_ONE,
    }


def _stalled(search: Search, going: Pace) -> _Fields:
    return {
        "reason": Reason.CONSUMERS_STALLED,
        "why": f"{number(search.live, 'live consumer')} with {number(search.held, 'message')} in hand, and for "
        f"{duration(going.over_ms)} none was finished and none was claimed",
        "next": "it is claimed when a handler ends; one that hangs is ended only if it has a timeout",
        "command": command(search.keys, "status"),
    }


# -- doing --------------------------------------------------------------------------------------------------


def _doing(search: Search, found: Found, record: dict[str, str]) -> _Fields:
    now, ends = search.sight.now, search.leases.get(found.consumer)
    fields = {
        "state": "doing", "consumer": found.consumer, "who": record.get("who"), "lease_until": ends,
        **_held(search, found), "command": command(search.keys, "reap"),
    }  # fmt: skip
    if ends is None:
        return fields | {
            "reason": Reason.UNREGISTERED,
            "why": f"it is in a list of {found.consumer}, which is not registered",
            "next": "a reaper finds the list, gives it a lease, and brings back what it holds when that ends",
        }
    if "dead" in record:
        return fields | {
            "reason": Reason.CONSUMER_DIED,
            "why": f"{found.consumer} was seen to die; what it held is yet to be brought back",
            "next": _back(search, "within half a minute"),
        }
    if ends <= now:
        return fields | {
            "reason": Reason.LEASE_EXPIRED,
            "why": f"the lease of {found.consumer} ended {duration(now - ends)} ago",
            "next": _back(search, "within a second, or half a minute if the lease ended long ago"),
        }
    if found.place == "inbox":
        return fields | {
            "reason": Reason.ARRIVING,
            "why": f"a blocking read has brought it to {found.consumer}",
            "next": "the next round trip of that consumer claims it",
            "next_at": now,
            "command": "",
        }
    return fields | {
        "reason": Reason.LEASED,
        "why": f"{found.consumer} has it, attempt {found.message.failed + 1}, and renewed its lease: "
        f"{duration(ends - now)} left",
        "next": "its handler ends, and it is acked or goes back; should the worker die, it is ready again "
        "when the lease ends",
        "command": command(search.keys, "status"),
    }


def _called_off(search: Search, fields: _Fields, marks: str) -> _Fields:
    """What is said besides if somebody has cancelled it since it was claimed; ``marks``: see lua/marks.lua."""
    lines = (line.split(" ", 2) for line in marks.split("\n"))
    by = next((line[1:] for line in lines if len(line) == 3 and line[0] == search.id.hex()), None)
    if by is None:
        return {}
    why = f"{fields['why']}; {by[0]}" + (f" ({by[1]})" if by[1] else "") + " has cancelled it"
    if fields["reason"] is not Reason.LEASED:
        return {"why": why, "next": "who brings back what that consumer held ends it", "next_at": None}
    return {
        "reason": Reason.CANCELLING,
        "why": why,
        "next": "its handler is told, within a second; it ends unless its handler finishes it",
    }


def _held(search: Search, found: Found) -> _Fields:
    """Since when, as far as that is known: a raw body has its id from the claim, others were last heard of
    before."""
    e = found.message
    made = env.put_ms(e)
    step = search.steps[-1] if search.steps else None
    if step is not None and (step.event, step.consumer) == (trace.DELIVER, found.consumer):
        return {"held_since": trace.read(step.event, step.ms, step.detail)[0]}
    if e.meta.get("r") and not e.returns:
        return {"held_since": made}
    back = [event.ms for event in search.events if event.event in ("retry", "release", "reap", "revive")]
    return {"held_after": max(back, default=made)}


def _back(search: Search, soon: str) -> str:
    """When it is ready again, and who sees to that."""
    if not search.live:
        return "nothing brings it back while no worker and no reaper runs"
    if not search.sight.server_since:
        return "a worker brings it back when the server has been up for one lease"
    return f"a worker brings it back {soon}"


# -- later, dead --------------------------------------------------------------------------------------------


def _later(search: Search, found: Found) -> _Fields:
    now, due, e = search.sight.now, found.score, found.message
    fields: _Fields = {"state": "later", "due_at": due, "command": ""}
    if due <= now:
        overdue = f"it is due since {duration(now - due)}"
        if not search.live:
            gone = _no_consumers(search)
            return fields | gone | {"why": f"{overdue}, and {gone['why']}"}
        return fields | {
            "reason": Reason.DUE, "why": overdue, "next_at": now,
            "next": "the next round trips of consumers make it ready, behind what waits already",
            "command": command(search.keys, "status"),
        }  # fmt: skip
    fields |= {"next_at": due, "next": f"it is ready in {duration(due - now)}"}
    if not search.live:
        fields["next"] += ", and then nobody takes it: no consumer is alive"
        fields["command"] = START_ONE
    if search.last is not None and search.last.event == "reschedule":
        return fields | {"reason": Reason.DUE_LATER, "why": f"{search.last.consumer} gave it another time"}
    if times := routing.times_of(e.meta):
        fields["next"] += ", and whoever handles its type takes it"
        kind = routing.words(routing.type_of(e.meta))
        why = f"{number(times, 'time')} a worker had no handler for messages of {kind}"
        return fields | {"reason": Reason.NO_HANDLER, "why": why, "command": fields["command"] or START_ONE}
    if e.failed and e.returns:
        fields["next"] += f", for attempt {e.failed + 1}"
        why = f"attempt {e.failed} failed" + (f": {e.meta['e']}" if isinstance(e.meta.get("e"), str) else "")
        return fields | {"reason": Reason.RETRY_BACKOFF, "why": why}
    if e.released:
        return fields | {"reason": Reason.RELEASE_BACKOFF, "why": "its handler put it back"}
    return fields | {"reason": Reason.DUE_LATER, "why": "it was put with a delay, or for a time"}


def _in_lane(search: Search, share: Share) -> _Fields:
    """It waits for the turn of its tenant: ready, as people see it."""
    gate, mine = search.sight.gate, f"its tenant {share.tenant!r}"
    fields: _Fields = {"state": "ready", "command": command(search.keys, "status")}
    if not share.is_in_turn and share.held == 0:
        return fields | {
            "reason": Reason.LOST_TURN, "why": f"it waits for the turn of {mine}, of which nobody knows",
            "next": "the next put of this tenant brings it back", "command": command(search.keys, "fsck --repair"),
        }  # fmt: skip
    if gate.paused is not None:
        return fields | _paused(search, gate)
    if not search.live:
        return fields | _no_consumers(search)
    if gate.tenant_concurrency is not None and share.held >= gate.tenant_concurrency:
        limit = f"the limit is {gate.tenant_concurrency} at once"
        why = f"{number(share.held, 'message')} of {mine} in hand, and {limit}"
        return fields | {
            "reason": Reason.LIMITED, "why": why, "next": "one of those is done, and its next one is claimed"
        }  # fmt: skip
    if share.rests_until is not None:
        return fields | {
            "reason": Reason.LIMITED, "why": f"{mine} has used up its rate, {gate.tenant_rate:g} a second",
            "next": f"it goes on in {duration(max(0, share.rests_until - search.sight.now))}",
            "next_at": share.rests_until,
        }  # fmt: skip
    waiting = f"{number(share.before, 'message')} before it" if share.before else "it is the next"
    return fields | {
        "reason": Reason.WAITING_TURN,
        "why": f"{waiting} of {mine}, which shares with {number(share.others, 'other tenant')}",
        "next": "the tenants are served one after the other, each in its order",
    }


def _gathers(search: Search, group: Gathered) -> _Fields:
    others = f"{number(group.waiting, 'message')} of group {group.group!r} gather{'s' * (group.waiting == 1)}"
    fields: _Fields = {"state": "later", "reason": Reason.GATHERING, "why": others, "command": ""}
    if group.due is None:
        return fields | {
            "reason": Reason.LOST_TURN, "why": others + ", and nobody knows when it is their time",
            "next": "the next put of this group says so", "command": command(search.keys, "fsck --repair"),
        }  # fmt: skip
    left = group.due - search.sight.now
    soon = (
        f"they come together in {duration(left)}"
        if left > 0
        else "it is their time: the next round trips take them"
    )
    if not search.live:
        soon, fields["command"] = soon + ", and then nobody takes them: no consumer is alive", START_ONE
    return fields | {"next": soon, "next_at": max(group.due, search.sight.now)}


def _awaits_turn(search: Search, turn: Place) -> _Fields:
    mine = f"the turn of its ordering key {turn.key!r}"
    fields: _Fields = {"state": "later", "reason": Reason.AWAITS_TURN}
    if not turn.holder:
        return fields | {
            "reason": Reason.LOST_TURN, "why": f"it waits for {mine}, which nobody has",
            "next": "it stays there until another message with this key ends",
            "command": command(search.keys, "fsck --repair"),
        }  # fmt: skip
    others = f", and behind {turn.before:,} more" if turn.before else ""
    return fields | {
        "why": f"it waits for message {turn.holder}, which has {mine}{others}",
        "next": "it is the next one at the head of ready when that has ended" if not others else
                "they go one after the other, each when the one before has ended",
        "command": command(search.keys, f"explain {turn.holder}"),
    }  # fmt: skip


def _dead(search: Search, found: Found) -> _Fields:
    note = found.note
    reason = reasons.of_cause(note.get("cause")) if note else Reason.DEAD_BAD_NOTE
    texts = {name: _text(note.get(name)) for name in ("cause", "error", "traceback", "worker")}
    lines = [line.strip() for line in (texts["traceback"] or "").splitlines() if line.strip()]
    return {
        "state": "dead",
        "reason": reason,
        "why": texts["error"] or reason.summary,
        "next": "nothing: a dead letter stays until a person revives or removes it",
        "command": command(search.keys, f"dead show {search.id.hex()}"),
        "dead_at": found.score,
        "consumer": texts["worker"],
        "cause": texts["cause"],
        "error": texts["error"],
        "traceback": lines[-1] if lines else None,
    }


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)


# -- nowhere ------------------------------------------------------------------------------------------------


def nowhere_g(
    searches: list[Search], asked: str, known: Sequence[str], failures: list[str], *, deep: bool
) -> Flow[Explanation]:
    """Explain a message that was not found. ``asked``: the id as it was given; ``known``: the queues in the index;
    ``failures``: of queues that could not be searched."""
    finished = marked = None
    for search in searches:
        if (yield results.kept(search.keys, search.id)):
            finished = search
        if (yield looks.traces(search.keys, search.id)):
            marked = search
        yield from search.steps_g()
    if finished is not None:
        search, fields = finished, _acked("its result is kept")
    else:
        search, fields = yield from _nowhere_g(searches, asked, known, marked, deep=deep)
    if failures:
        fields["why"] += "; " + "; ".join(failures)
    told = timeline(search.id, _told(search), None, search.steps)
    fields |= _again(search, 0)
    return Explanation(search.id.hex(), search.keys.queue, now=search.sight.now, timeline=told, **fields)


def _nowhere_g(
    searches: list[Search], asked: str, known: Sequence[str], marked: Search | None, *, deep: bool
) -> Flow[tuple[Search, _Fields]]:
    """The search that knows most of it, and what that is. ``marked``: where its put has left a marker."""
    first = searches[0]
    moving = next((each for each in searches if not each.certain), None)
    told_of = next((each for each in searches if each.events or each.steps), None)
    if not deep:
        return first, _unsearched(first)
    if moving is not None:
        return moving, _moving(moving)
    if told_of is not None:
        return told_of, _gone(told_of)
    if marked is not None:
        return marked, _acked("it was put within the last hour")
    if first.keys.queue not in known and not (yield looks.exists(first.keys)):
        return first, _no_queue(first.keys, known)
    if forgetful := next(filter(_forgotten, searches), None):
        return forgetful, _done_or_forgotten(forgetful, searches)
    return first, _absent(searches, asked)


def _unsearched(search: Search) -> _Fields:
    return {
        "state": "unsearched",
        "reason": Reason.UNSEARCHED,
        "why": f"it is not where its id says; {number(search.sight.ready, 'message')} of ready, "
        f"{search.sight.later:,} of later and {search.sight.dead:,} dead letters were not all read",
        "next": "that cannot be told",
        "command": command(search.keys, f"explain {search.id.hex()}"),
    }


def _moving(search: Search) -> _Fields:
    told = search.events[-1] if search.events else None
    last = f"; the last that the ledger tells is {told.event!r}" if told else ""
    return {
        "state": "moving",
        "reason": Reason.MOVING,
        "why": f"it moved on whenever it was looked for{last}",
        "next": "that cannot be told",
        "command": command(search.keys, f"explain {search.id.hex()}"),
    }


def _gone(search: Search) -> _Fields:
    """The ledger tells of it, or it was traced; so it was there."""
    told = [*search.events, *search.steps]
    last = max(reversed(told), key=lambda event: event.ms)  # an ack is written together with its delivery
    if not search.events and all(step.event == trace.PUT for step in search.steps):
        return {
            "state": "absent",
            "reason": Reason.VANISHED,
            "why": f"its trace shows that it was put {duration(search.sight.now - last.ms)} ago, and given to no "
            "worker; it is nowhere",
            "next": "nothing",
            "command": command(search.keys, "doctor"),
        }
    if last.event == trace.ACK:
        return {**_acked(""), "why": f"{last.consumer} acked it {duration(search.sight.now - last.ms)} ago"}
    if (done := search.last) is not None and done.event == "cancel":
        return _cancelled(search, done)
    if last.event == "replace":
        return {**_acked(""), "why": f"{last.detail} took its place, as its put asked (unique); no handler got it"}
    if last.event == "repeat":
        return {**_acked(""), "why": f"{last.detail} had done the same idempotency key; no handler got it"}
    if last.event not in ("bury", "discard", "restore"):
        return _acked(f"the ledger tells of it, last {duration(search.sight.now - last.ms)} ago")
    return {
        "state": "removed",
        "reason": Reason.REMOVED,
        "why": f"it was a dead letter ({last.detail}), and is none any more",
        "next": "nothing",
        "command": "",
    }


def _cancelled(search: Search, event: Event) -> _Fields:
    word = f" ({event.detail})" if event.detail else ""
    return {
        "state": "cancelled",
        "reason": Reason.CANCELLED,
        "why": f"{event.consumer}{word} cancelled it {duration(search.sight.now - event.ms)} ago",
        "next": "nothing",
        "command": "",
    }


def _acked(evidence: str) -> _Fields:
    why = f"{evidence}, and it is nowhere any more"
    return {"state": "done", "reason": Reason.DONE, "why": why, "next": "nothing", "command": ""}


def _no_queue(keys: Keys, known: Sequence[str]) -> _Fields:
    near = get_close_matches(keys.queue, known, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    there = f"known are {', '.join(known[:20])}" if known else "no queue is known there"
    return {
        "state": "absent",
        "reason": Reason.UNKNOWN_QUEUE,
        "why": f"there is no queue {keys.queue!r} under prefix {keys.prefix!r}: {there}{hint}",
        "next": "nothing",
        "command": "reliq status" + (f" --prefix {shlex.quote(keys.prefix)}" if keys.prefix != "reliq" else ""),
    }


def _absent(searches: list[Search], asked: str) -> _Fields:
    first = searches[0]
    names = ", ".join(each.keys.queue for each in searches[:20])
    more = f" and {len(searches) - 20} more" if len(searches) > 20 else ""
    return {
        "state": "absent",
        "reason": Reason.DONE_OR_NEVER_PUT,
        "why": f"it is nowhere in {names}{more} (prefix {first.keys.prefix!r}); {_about(asked, first)}",
        "next": "nothing",
        "command": "",
    }


def _done_or_forgotten(search: Search, searches: list[Search]) -> _Fields:
    found, told = _absent(searches, search.id.hex()), _forgotten(search)[-1]
    ago = duration(search.sight.now - told.ms)
    return found | {
        "reason": Reason.DONE_OR_FORGOTTEN,
        "why": f"{found['why']}; {ago} ago the server was found to have forgotten things ({told.detail})",
        "command": command(search.keys, "doctor"),
    }


def slow(found: Explanation, keys: Keys, since: int | None) -> Explanation:
    """The same, now that its worker has said that its handler takes longer than it is expected to."""
    so_long = f"for {duration(found.now - since)}, " if since is not None else ""
    return replace(
        found,
        reason=Reason.HANDLER_SLOW,
        why=f"{found.consumer} has it in hand {so_long}longer than its handler is expected to take",
        next="its handler ends, or its worker is stopped, and another one gets it",
        command=command(keys, f"workers stop {found.consumer}"),
    )


def _about(asked: str, search: Search) -> str:
    """What can be said of an id by itself."""
    digits = asked.replace("-", "")
    if len(digits) != 32 and len(digits) >= 8 and set(digits.lower()) <= set("0123456789abcdef"):
        return f"an id of reliq has 32 digits, and this has {len(digits)}: was it cut?"
    if search.id.hex() != digits.lower():
        return f"as an id of your own, {asked!r} stands for {search.id.hex()}"
    made = env.id_ms(search.id)
    if made is None:
        version = search.id[6] >> 4
        return f"it is a UUID of version {version}, and reliq's own are of version 7" if version != 8 else (
            "it stands for an id of your own")  # fmt: skip
    age = search.sight.now - made
    return f"its id was made {duration(age)} ago" if age >= 0 else f"its id says a time {duration(-age)} from now"
