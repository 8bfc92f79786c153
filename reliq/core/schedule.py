"""Schedules: what stands in Redis of one, which of its ticks become messages, and what those look like.

A tick is named by its schedule and its time. The message of a tick is made by whoever fires it, from nothing but
that name and the definition in Redis, so that it is the same one whoever does.

A tick that comes a little late (a worker died, a primary failed over) is no missed one: it has its message all the
same. Beyond that, ``catch_up`` decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha1
from typing import Any, Final, NamedTuple

import msgpack

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import routing, timing, trace
from reliq.core.retry import POLICY_KEY, Retry
from reliq.core.timing import Timing
from reliq.errors import BodyTooLarge, ConfigError, DecodeError, given

#: Where a message says of which tick it is: [name, Unix ms].
KEY: Final = "k"
LAST, ALL, NONE = "last", "all", "none"
CATCH_UP: Final = (LAST, ALL, NONE)


def id_of(queue: str, name: str, tick: int) -> bytes:
    """The id of the message of a tick."""
    return env.named_id(f"schedule {queue} {name} {tick}")


class Tick(NamedTuple):
    """One step of a schedule: from this tick to the next one. ``fires``: the time of the tick that gets a message
    with it, None if all are passed over."""

    at: int
    following: int | None
    fires: int | None


class Definition(NamedTuple):
    """What stands in Redis of a schedule. ``jitter``: ms; ``meta``: that of its messages; ``body``: encoded."""

    timing: Timing
    catch_up: str
    jitter: int
    meta: env.Meta
    body: bytes

    def pack(self) -> bytes:
        """The same definition, the same bytes."""
        when = {"every": self.timing.every} if self.timing.cron is None else {"cron": self.timing.cron}
        how = {"tz": self.timing.tz, "catch_up": self.catch_up, "jitter": self.jitter}
        return bytes(msgpack.packb({**when, **how, "meta": self.meta, "body": self.body}))

    @classmethod
    def read(cls, name: str, packed: bytes) -> Definition:
        """DecodeError if that is none."""
        try:
            found = msgpack.unpackb(packed)
            every = found.get("every")
            when = timing.checked(found.get("cron"), None if every is None else every / 1000, found["tz"])
            how = found["catch_up"], found["jitter"]
            if how[0] not in CATCH_UP or type(how[1]) is not int or how[1] < 0:
                raise ValueError(f"catch_up and jitter are {how}")
            return cls(when, *how, dict(found["meta"]), bytes(found["body"]))
        except ConfigError as error:
            raise DecodeError("BAD_SCHEDULE", f"schedule {name!r}: {error}") from error
        except Exception as error:  # msgpack raises a dozen unrelated types on bad input
            raise DecodeError("BAD_SCHEDULE", f"schedule {name!r} cannot be read: {error!r}") from error

    def steps(self, at: int, now: int) -> Iterator[Tick]:
        """What there is to do about the ticks from ``at``, the next one, to ``now``."""
        if self.catch_up == ALL or now - at <= _GRACE:
            while at <= now:
                following = self.timing.after(at)
                yield Tick(at, following, at)
                if following is None:
                    return
                at = following
        else:
            last = max(self.timing.last(now) or at, at)
            is_late = self.catch_up == NONE and now - last > _GRACE
            yield Tick(at, self.timing.after(now), None if is_late else last)

    def element(self, id: bytes, name: str, tick: int, *, traced: bool = False) -> bytes:
        """The message of a tick. ``traced``: every step of it is written down."""
        mark = {trace.KEY: 1} if traced else {}
        return env.pack(id, self.body, {**self.meta, **mark, "p": tick, KEY: [name, tick]})

    def due(self, name: str, tick: int) -> int:
        """When that message becomes ready: at its tick, or so much later as its share of the jitter is."""
        if not self.jitter:
            return tick
        share = int.from_bytes(sha1(f"{name} {tick}".encode(), usedforsecurity=False).digest()[:4], "big")
        return tick + self.jitter * share // 2**32


_GRACE: Final = round(defaults.TICK_GRACE * 1000)


@dataclass(frozen=True)
class Schedule:
    """A schedule as it stands in Redis: its name, ``cron`` or ``every`` (seconds), ``tz``, ``catch_up``,
    ``jitter`` (seconds), the ``body`` of its messages, when it ticks next by the server's clock (``next_at``, in
    its zone; None: never again), and the ``type`` of its messages."""

    name: str
    cron: str | None
    every: float | None
    tz: str
    catch_up: str
    jitter: float
    body: Any
    next_at: datetime | None
    type: str | None = None

    def next_times(self, n: int) -> list[datetime]:
        """The next ``n`` ticks, in its zone; its messages come up to ``jitter`` seconds later."""
        if self.next_at is None:
            return []
        when = Timing(self.cron, None if self.every is None else round(self.every * 1000), self.tz)
        at: int | None = round(self.next_at.timestamp() * 1000)
        times: list[datetime] = []
        while at is not None and len(times) < n:
            times.append(when.time(at))
            at = when.after(at)
        return times


def shown(name: str, definition: Definition, tick: int | None, body: Any) -> Schedule:
    """For people: with the body decoded."""
    when = definition.timing
    return Schedule(
        name=name,
        cron=when.cron,
        every=None if when.every is None else when.every / 1000,
        tz=when.tz,
        catch_up=definition.catch_up,
        jitter=definition.jitter / 1000,
        body=body,
        next_at=None if tick is None else when.time(tick),
        type=routing.type_of(definition.meta),
    )


def define(
    when: Timing, catch_up: str, jitter: float, retry: Retry | None, codec_name: str, body: bytes
) -> Definition:
    """Check what a schedule is given; ConfigError and BodyTooLarge say what is wrong."""
    if catch_up not in CATCH_UP:
        raise ConfigError(
            f"schedule(catch_up={catch_up!r}): what becomes of missed ticks: 'last' (one message for the last of "
            "them), 'all' (one for each), or 'none'"
        )
    is_number = isinstance(jitter, int | float) and not isinstance(jitter, bool)
    if not is_number or not 0 <= jitter <= 86_400:
        raise ConfigError(f"schedule(jitter={given(jitter)}): seconds, from 0 to 86400 (a day)")
    if len(body) > defaults.CLAIM_CHECK:
        raise BodyTooLarge(
            f"the body of a schedule is {len(body)} bytes, the limit is {defaults.CLAIM_CHECK}: it is kept with "
            "the schedule and copied at every tick; put the data into a store and send its address"
        )
    meta: env.Meta = {} if codec_name == "msgpack" else {"c": codec_name}
    if retry is not None:
        if not isinstance(retry, Retry):
            raise ConfigError(f"schedule(retry={retry!r}): pass a reliq.Retry(attempts=, wait=, max_age=)")
        meta[POLICY_KEY] = retry.packed()
    return Definition(when, catch_up, round(jitter * 1000), meta, body)


def checked_name(name: str) -> str:
    """The name of a schedule, if that may be one."""
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
        raise ConfigError(f"schedule {name!r} cannot be called so: a text of 1 to 200 printable characters")
    return name


def tick_of(meta: env.Meta) -> tuple[str, int] | None:
    """Of which tick a message is: (name, Unix ms); None if it is of none."""
    found = meta.get(KEY)
    if isinstance(found, list) and len(found) == 2 and isinstance(found[0], str) and type(found[1]) is int:
        return found[0], found[1]
    return None
