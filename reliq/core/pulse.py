"""Signs of life of a queue, seen from outside in two round trips: whether work waits, since when, and whether the
claim loops of its consumers go on.

A claim loop that goes on makes round trips, and each renews the lease. So what is left of a lease tells when the
last one was. Only a supervisor renews without one, for a child whose loop is held up, and notes for which round
trip it did: as long as that is still the last one, the child has made none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import lanes, ops, scripts
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys
from reliq.core.reasons import Reason
from reliq.core.words import duration, number
from reliq.errors import DecodeError

_PROBE: Final = scripts.load("probe")
_FIELDS: Final = ("lease", "who", "dead", "leaving", "trip", "renewed")
_TOGETHER: Final = 500
#: A loop that is well makes a round trip in a third of the lease; after two thirds no handler is started any more.
SILENCE_SHARE: Final = 2 / 3


class Beat(NamedTuple):
    """A consumer whose lease is not over: ``left_ms`` of ``whole_ms`` (0: it has not said so). ``kept``: since its
    last round trip its supervisor has renewed for it."""

    name: str
    who: str
    left_ms: int
    whole_ms: int
    leaving: bool
    kept: bool

    @property
    def silent_ms(self) -> int:
        """Since its last round trip, at least."""
        return max(0, self.whole_ms - self.left_ms)

    @property
    def goes_on(self) -> bool:
        """Whether its claim loop makes round trips."""
        return not self.kept and self.silent_ms <= self.whole_ms * SILENCE_SHARE

    def __str__(self) -> str:
        return f"{self.name} ({self.who})" if self.who else self.name


class Pulse(NamedTuple):
    """One look at a queue. ``due``: of those for later, whose time has come; ``oldest_ms``: since the put of the
    message that is claimed next, or of the first of those of tenants; None if there is none or it does not tell;
    ``lapsed``: consumers whose lease is over and that nobody has forgotten yet."""

    now: int
    ready: int
    due: int
    later: int
    dead: int
    oldest_ms: int | None
    beats: list[Beat]
    lapsed: int

    @property
    def depth(self) -> int:
        """Messages that could be claimed at this moment."""
        return self.ready + self.due


class Choice(NamedTuple):
    """Which consumers are meant: those of a host (their names begin with it), a process, workers of a name."""

    host: str | None = None
    pid: int | None = None
    worker: str | None = None

    def may_mean(self, consumer: str) -> bool:
        """As far as its name tells."""
        parts = consumer.rsplit("-", 2)
        host, pid = parts[:2] if len(parts) == 3 else (consumer, "")
        return (self.host is None or host == self.host) and (self.pid is None or pid == str(self.pid))

    def means(self, beat: Beat) -> bool:
        """Now that it is known who it is."""
        return self.worker is None or self.worker in (beat.name, beat.who.partition(" ")[2])

    def __str__(self) -> str:
        parts = [
            self.worker is not None and f"named {self.worker}",
            self.host is not None and f"of host {self.host}",
            self.pid is not None and f"of process {self.pid}",
        ]
        return " ".join(part for part in parts if part)


EVERYBODY: Final = Choice()


def pulse_g(keys: Keys, choice: Choice = EVERYBODY) -> Flow[Pulse]:
    """Look, in two round trips (and one for each 500 live consumers beyond the first 500)."""
    later_and_dead = (ops.length(keys.later, "ZCARD"), ops.length(keys.dead, "ZCARD"))
    first = yield [ops.server_time(), ops.consumers(keys), *later_and_dead, _head(keys)]
    now, registered, later, dead, head = all_of(first)
    ends = {name: end for name, end in registered if end > now}
    names = [name for name in ends if choice.may_mean(name)]
    lapsed = sum(choice.may_mean(name) for name, _ in registered) - len(names)
    beats: list[Beat] = []
    counts = [_due(keys, now), shared(keys), next_shared(keys), *([_whole_head(keys)] if head.needs_all else [])]
    for start in range(0, max(1, len(names)), _TOGETHER):
        batch = names[start : start + _TOGETHER]
        replies = all_of((yield [*counts, *(_session(keys, name) for name in batch)]))
        if counts:
            due, in_turn, shared_ms, *whole = replies[: len(counts)]
            put_ms = whole[0] if whole else head.put_ms
            if shared_ms is not None:
                put_ms = shared_ms if put_ms is None else min(put_ms, shared_ms)
        found = zip(batch, replies[len(counts) :], strict=True)
        beats += [beat for name, record in found if (beat := _beat(name, ends[name] - now, record)) is not None]
        counts = []
    oldest = None if put_ms is None else max(0, now - put_ms)
    meant = [beat for beat in beats if choice.means(beat)]
    return Pulse(now, head.ready + in_turn, due, later - in_turn, dead, oldest, meant, lapsed)


class _Head(NamedTuple):
    """The right end of ready. ``needs_all``: its time stands in its meta, which was not read."""

    ready: int
    put_ms: int | None
    needs_all: bool


def _head(keys: Keys) -> Command:
    """Parses to _Head. What stands at the right end may be a bell, which is no message."""

    def parse(reply: Any) -> _Head:
        length, size, *heads = reply
        bell = int(heads[:1] == [env.BELL])
        first = heads[bell] if len(heads) > bell else b""
        if first[:4] != env.MAGIC or len(first) < env.META_FROM:  # a raw body does not tell
            return _Head(length - bell, None, False)
        made = env.id_ms(first[env.CHECKED_FROM : env.META_FROM])
        return _Head(length - bell, made, made is None and not bell and size <= defaults.SCRIPT_BYTES)

    args = (0, 2, defaults.SCRIPT_BYTES)
    return Command(_PROBE, (keys.ready,), args, parse, idempotent=True, queue=keys.queue)


def _whole_head(keys: Keys) -> Command:
    """Parses to when the message there was put, Unix ms, or None if it does not tell."""

    def parse(reply: Any) -> int | None:
        try:
            return env.put_ms(env.unpack(reply[0]))
        except (DecodeError, IndexError):
            return None

    return Command("LRANGE", (keys.ready,), (-1, -1), parse, idempotent=True, queue=keys.queue)


def _due(keys: Keys, now: int) -> Command:
    return Command("ZCOUNT", (keys.later,), ("-inf", now), int, idempotent=True, queue=keys.queue)


def shared(keys: Keys) -> Command:
    """Parses to how many wait for the turn of their tenant: in later, but ready."""
    return Command(
        "ZCOUNT", (keys.later,), (lanes.SHARED, f"({lanes.GROUPED}"), int, idempotent=True, queue=keys.queue
    )


def next_shared(keys: Keys) -> Command:
    """Parses to when the first of these was put, Unix ms, or None if there is none or it does not tell."""

    def parse(reply: Any) -> int | None:
        try:
            return env.put_ms(env.unpack(reply[0]))
        except (DecodeError, IndexError):
            return None

    span = (lanes.SHARED, f"({lanes.GROUPED}", "BYSCORE", "LIMIT", 0, 1)
    return Command("ZRANGE", (keys.later,), span, parse, idempotent=True, queue=keys.queue)


def _session(keys: Keys, consumer: str) -> Command:
    """Parses to the fields of its record that are asked for, as text or None."""

    def parse(reply: Any) -> list[str | None]:
        return [None if value is None else value.decode("utf-8", "replace") for value in reply]

    return Command("HMGET", (keys.session(consumer),), _FIELDS, parse, idempotent=True, queue=keys.queue)


def _beat(name: str, left_ms: int, record: list[str | None]) -> Beat | None:
    """None for one that was declared dead."""
    lease, who, dead, leaving, trip, renewed = record
    if dead is not None:
        return None
    whole_ms = int(lease) if lease is not None and lease.isdecimal() else 0
    kept = renewed is not None and renewed == trip
    return Beat(name, who or "", left_ms, whole_ms, leaving is not None, kept)


# -- what is wrong -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What is still well: ages in seconds, counts in messages; None: not looked at. ``workers``: so many consumers
    have to go on; None: one, if there is something to do or some were chosen."""

    max_age: float | None = None
    max_depth: int | None = None
    max_dead: int | None = None
    workers: int | None = None
    choice: Choice = EVERYBODY

    def needed(self, pulse: Pulse) -> int:
        """How many consumers have to go on."""
        if self.workers is not None:
            return self.workers
        return int(self.choice != EVERYBODY or pulse.depth > 0)


class Trouble(NamedTuple):
    """One thing that is wrong: why (a stable code), and what was seen."""

    code: Reason
    seen: str


def troubles(pulse: Pulse, limits: Limits) -> Iterator[Trouble]:
    """What is not within the limits."""
    for beat in pulse.beats:
        if not beat.goes_on:
            yield _silence(beat)
    going, needed = sum(beat.goes_on for beat in pulse.beats), limits.needed(pulse)
    if going < needed:
        yield _too_few(pulse, going, needed, limits.choice)
    if limits.max_depth is not None and pulse.depth > limits.max_depth:
        yield Trouble(
            Reason.DEEP_BACKLOG, f"{number(pulse.depth, 'message')} to do, and {limits.max_depth:,} are allowed"
        )
    oldest = pulse.oldest_ms
    if limits.max_age is not None and oldest is not None and oldest > limits.max_age * 1000:
        yield Trouble(
            Reason.OLD_BACKLOG,
            f"the next message was put {duration(oldest)} ago, and {duration(limits.max_age * 1000)} are allowed",
        )
    if limits.max_dead is not None and pulse.dead > limits.max_dead:
        yield Trouble(
            Reason.DEAD_LETTERS, f"{number(pulse.dead, 'dead letter')}, and {limits.max_dead:,} are allowed"
        )


def _silence(beat: Beat) -> Trouble:
    if beat.kept:
        return Trouble(
            Reason.CLAIM_LOOP_STALLED, f"{beat} makes no round trips; its supervisor renews its lease for it"
        )
    of = f"{duration(beat.silent_ms)} ago, and its lease is {duration(beat.whole_ms)}"
    return Trouble(Reason.LATE_RENEWAL, f"the last round trip of {beat} was {of}")


def _too_few(pulse: Pulse, going: int, needed: int, choice: Choice) -> Trouble:
    which = f" {choice}" if choice != EVERYBODY else ""
    if going:
        return Trouble(
            Reason.TOO_FEW_WORKERS, f"{number(going, 'consumer')}{which} at work, and {needed} are needed"
        )
    doing = f"{number(pulse.depth, 'message')} to do, and " if pulse.depth else ""
    over = f"; the leases of {pulse.lapsed} are over" if pulse.lapsed else ""
    return Trouble(Reason.NO_CONSUMERS, f"{doing}no consumer{which} at work{over}")
