"""What ``explain`` answers: a typed record that says where a message is, why, and what to do now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from reliq.core.reasons import USUAL, Reason


class Happening(NamedTuple):
    """Something that happened to a message. ``event``: put, retry, release, reap, bury, late, revive, …; ``at``:
    Unix ms, by the server's clock (a put: by its producer's); ``told``: in words."""

    at: int
    event: str
    consumer: str
    told: str


@dataclass(frozen=True)
class Explanation:
    """Where a message is, why it is not further, what happens next, and what to do.

    ``state``: ready, doing, later, dead; done, cancelled, removed, absent if it is nowhere; moving if it was never
    where it was looked for; unsearched after a quick look. ``reason``: the code, of a closed vocabulary; ``why``
    and ``next`` are sentences, ``command`` is what to type ("" if there is nothing to do). All times are Unix ms
    by the server's clock, except ``put_at``, which is by its producer's. None: not so in this state, or not known.

    ``position``: 1 is the next to be claimed, of ``length``; ``rate``: messages per second that leave ready, of
    late; ``next_at``: when it changes by itself, as far as that can be told. ``held_since``: when it was claimed;
    ``held_after``: claims are not written down, so that often only this is known: not earlier. ``size``: bytes, of
    which ``beside`` are those of a body beside the list. ``attempt`` is the one under way, or the next. ``again``:
    why it was handed out more than once, as far as that was written down, and ``again_why`` in words. ``error``:
    the last failure, in one line; ``traceback``: its last line. ``progress``: what its handler has said last of
    how far it is. ``handler`` and ``stack``: what handles it and where that is, if its worker was asked and has
    answered. ``type``, ``ordering_key``, ``tenant``, ``group``, ``headers``: as its put said.
    """

    id: str
    queue: str
    state: str
    reason: Reason
    why: str
    next: str
    command: str
    now: int
    next_at: int | None = None

    position: int | None = None
    length: int | None = None
    rate: float | None = None
    consumer: str | None = None
    who: str | None = None
    held_since: int | None = None
    held_after: int | None = None
    lease_until: int | None = None
    due_at: int | None = None
    dead_at: int | None = None

    put_at: int | None = None
    size: int | None = None
    beside: int | None = None
    raw: bool = False
    type: str | None = None
    ordering_key: str | None = None
    tenant: str | None = None
    group: str | None = None
    headers: Mapping[str, str] | None = None
    trace_id: str | None = None
    attempt: int | None = None
    deliveries: int | None = None
    failed: int | None = None
    released: int | None = None
    lost: int | None = None
    fence: int | None = None
    again: Reason | None = None
    again_why: str | None = None
    cause: str | None = None
    error: str | None = None
    traceback: str | None = None
    progress: Any = None
    handler: str | None = None
    stack: str | None = None
    timeline: tuple[Happening, ...] = ()

    @property
    def usual(self) -> bool:
        """Whether it goes its usual way, so that nobody need do anything."""
        return self.reason in USUAL

    @property
    def remedy(self) -> str:
        """What to do, in a sentence; "" if it goes its usual way, and did all the time."""
        reason = self.reason if not self.usual else self.again
        if reason is None or (reason is self.again and reason in USUAL):
            return ""
        names = {"ID": self.id, "NAME": self.consumer or "NAME"}
        return re.sub(r"\b(ID|NAME)\b", lambda match: names[match[0]], reason.remedy)
