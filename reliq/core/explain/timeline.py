"""What happened to a message, from its put to now, as far as it was written down: by its id, its counters, the
ledger, its death note. What is normal is not: a claim, an ack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from reliq.core import envelope as env
from reliq.core.envelope import Envelope
from reliq.core.explain.explanation import Happening
from reliq.core.explain.looks import Event, Found
from reliq.core.words import duration

_TOLD: Final[dict[str, Callable[[str], str]]] = {
    "retry": lambda delay: f"went back for {duration(int(delay))}" if delay.isdigit() else "went back for later",
    "release": lambda _: "given back to the head of the queue",
    "bury": lambda cause: f"given up: {cause}",
    "reap": lambda how: (
        "its consumer died with it in hand; ready again"
        if how == "lost"
        else "its consumer died, no handler had it; ready again"
    ),
    "rollback": lambda what: f"the server has forgotten things: {what}",
    "late": lambda verb: f"a late {verb} was refused: the lease was over",
    "revive": lambda cause: f"put back by a person, after {cause}" if cause else "put back by a person",
    "discard": lambda cause: f"removed by a person, after {cause}" if cause else "removed by a person",
    "restore": lambda cause: f"imported as a dead letter: {cause}" if cause else "imported as a dead letter",
}


def timeline(id: bytes, events: list[Event], found: Found | None) -> tuple[Happening, ...]:
    """The happenings, oldest first."""
    message = found.message if found is not None else None
    told = [Happening(e.ms, e.event, e.consumer, _tell(e)) for e in events]
    if message is not None:
        _add_error(told, message)
    if found is not None and found.place == "dead" and not any(e.event in ("bury", "restore") for e in events):
        note = found.note
        told.append(
            Happening(found.score, "bury", str(note.get("worker") or ""), f"given up: {note.get('cause')}")
        )
    return (*_put(id, message), *told)


def _tell(event: Event) -> str:
    tell = _TOLD.get(event.event)
    return tell(event.detail) if tell else f"{event.event} {event.detail}".strip()


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
