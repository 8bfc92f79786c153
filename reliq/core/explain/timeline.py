"""What happened to a message, from its put to now, as far as it was written down: by its id, its counters, the
ledger, its death note, and if it is traced, every step. Else what is normal is not: who put it, deliveries, an
ack."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Final

from reliq.core import envelope as env
from reliq.core import routing, trace
from reliq.core.envelope import Envelope
from reliq.core.explain.explanation import Happening
from reliq.core.explain.looks import Event, Found
from reliq.core.words import duration

_TOLD: Final[dict[str, Callable[[str], str]]] = {
    "retry": lambda delay: f"went back for {duration(int(delay))}" if delay.isdigit() else "went back for later",
    "release": lambda _: "given back to the head of the queue",
    "unrouted": lambda detail: (
        f"went back: no handler there for {routing.words(detail.partition(' ')[2] or None)}"
    ),
    "bury": lambda cause: f"given up: {cause}",
    "reap": lambda how: (
        "its consumer was lost with it in hand; ready again"
        if how == "lost"
        else "its consumer was lost, no handler had it; ready again"
    ),
    "rollback": lambda what: f"the server has forgotten things: {what}",
    "takeover": lambda who: f"the exclusive hold of {who} was ended: its lease was over",
    "mismatch": lambda what: f"an exclusive holder has removed nothing: {what}",
    "late": lambda verb: f"a late {verb} was refused: the lease was over",
    "call off": lambda word: (
        f"cancelled while it was in hand: {word}" if word else "cancelled while it was in hand"
    ),
    "cancel": lambda word: f"cancelled: {word}" if word else "cancelled",
    "replace": lambda other: f"not handled: {other} took its place",
    "repeat": lambda other: f"not handled: {other} had done the same idempotency key",
    "reschedule": lambda due: f"given another time: {_utc(due)}",
    "revive": lambda cause: f"put back by a person, after {cause}" if cause else "put back by a person",
    "discard": lambda cause: f"removed by a person, after {cause}" if cause else "removed by a person",
    "restore": lambda cause: f"imported as a dead letter: {cause}" if cause else "imported as a dead letter",
}


def _utc(ms: str) -> str:
    """``2030-01-31T08:00:00.000Z``"""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(int(ms) / 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return ms


def timeline(
    id: bytes, events: list[Event], found: Found | None, steps: Sequence[Event] = ()
) -> tuple[Happening, ...]:
    """The happenings, oldest first; ``steps``: those of a traced message."""
    message = found.message if found is not None else None
    told = [Happening(e.ms, e.event, e.consumer, tell(e)) for e in events]
    if message is not None and not any(step.event == trace.FAIL for step in steps):
        _add_error(told, message)
    if found is not None and found.place == "dead" and not any(e.event in ("bury", "restore") for e in events):
        note = found.note
        told.append(
            Happening(found.score, "bury", str(note.get("worker") or ""), f"given up: {note.get('cause')}")
        )
    stepped = [_step(step) for step in steps]
    put = [] if any(step.event == "put" for step in steps) else [*_put(id, message)]
    return (*put, *_merged(told, stepped))


def _merged(told: list[Happening], steps: list[Happening]) -> Iterator[Happening]:
    """By time, each in its own order. Within one ms a message is delivered again after what brought it back."""
    events, before = deque(told), ""
    for step in steps:
        again = step.event == trace.DELIVER and before in (trace.DELIVER, trace.FAIL)
        while events and events[0].at < step.at + again:
            yield events.popleft()
        yield step
        before = step.event
    yield from events


def _step(step: Event) -> Happening:
    """One of a traced message."""
    at, detail = trace.read(step.event, step.ms, step.detail)
    by, consumer = (step.consumer, "") if step.event == trace.PUT else ("", step.consumer)
    told = {
        trace.PUT: f"put by {by} {detail}".rstrip(),
        trace.DELIVER: f"delivered to a handler, attempt {detail}",
        trace.FAIL: f"failed: {detail}",
        trace.ACK: f"acked, {detail} ms after that" if detail else "acked",
    }
    return Happening(at, step.event, consumer, told.get(step.event, f"{step.event} {detail}".rstrip()))


def tell(event: Event) -> str:
    """An entry of the ledger in words."""
    told = _TOLD.get(event.event)
    return told(event.detail) if told else f"{event.event} {event.detail}".strip()


def _put(id: bytes, message: Envelope | None) -> Iterator[Happening]:
    """When it was put, if that is known; a raw body has its id since its first claim."""
    made = env.put_ms(message) if message is not None else env.id_ms(id)
    if made is None:
        return
    if message is not None and message.meta.get("r"):
        yield Happening(made, "claim", "", "claimed for the first time: a raw body, which has its id since then")
    elif message is not None:
        yield Happening(made, "put", "", "put")
    else:
        yield Happening(made, "id", "", "its id was made")


def _add_error(told: list[Happening], message: Envelope) -> None:
    """The last failure stands in the message; the ledger has the times."""
    error = message.meta.get("e")
    last = next((i for i in reversed(range(len(told))) if told[i].event == "retry"), None)
    if isinstance(error, str) and last is not None and message.failed:
        told[last] = told[last]._replace(told=f"{told[last].told}, failed: {error}")


def untold(message: Envelope, events: list[Event]) -> str:
    """What the counters know and the ledger does not (any more), in words; empty if nothing."""
    revived = any(e.event == "revive" for e in events)
    if revived:  # its counters began anew
        return ""
    failed = message.failed - sum(e.event == "retry" for e in events)
    lost = message.lost - sum((e.event, e.detail) == ("reap", "lost") for e in events)
    parts = [f"{n:,} {noun}" for n, noun in ((failed, "failed"), (lost, "lost")) if n > 0]
    return " and ".join(parts)
