"""How fast a queue goes. Acks leave no trace, but are counted; now and then a consumer writes the counters down,
with the time and the head of the queue, and the difference to now is a rate. It costs the hot path nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import scripts
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of, sizes_g
from reliq.core.keys import Keys
from reliq.core.ops import sweep_producers

_SCRIPT: Final = scripts.load("sample", after="envelope")
#: Milliseconds between two samples, at least; a rate is told over at least as long, and over no more than LONGEST.
SHORTEST: Final = 10_000
LONGEST: Final = 600_000
#: So many sweeps in a row, at most, while each finds much to do.
SWEEPS: Final = 50


def sample(keys: Keys, total: int) -> Command:
    """Write the counters down, unless that was done just now; trim ledger and traces by age. ``total``: messages
    in the queue, in any state. Parses to whether it was done."""
    names = (keys.ready, keys.events, keys.stats, keys.traces)
    args = (SHORTEST, round(defaults.LEDGER_AGE * 1000), total)
    return Command(_SCRIPT, names, args, lambda reply: reply == 1, idempotent=True, queue=keys.queue)


def keep_g(keys: Keys) -> Flow[None]:
    """What a consumer on duty does every half minute to keep the books: forget idle producers, take a sample."""
    total = sum((yield from sizes_g(keys)))
    more, _ = all_of((yield [sweep_producers(keys), sample(keys, total)]))
    for _ in range(SWEEPS):
        if not more:
            break
        more = yield sweep_producers(keys)


class Sample(NamedTuple):
    """The counters of a queue at one moment, server ms. ``head``: the id of the next message, hex; ``total``:
    messages in the queue in any state, -1 if that was not counted; ``removed``: dead letters, by hand, and what
    was cancelled or purged; ``restored``: dead letters."""

    ms: int
    acked: int
    failed: int
    buried: int
    reaped: int
    head: str
    total: int = -1
    removed: int = 0
    restored: int = 0

    @classmethod
    def parse(cls, text: bytes | None) -> Sample | None:
        """Read what the script wrote; None for anything else."""
        words = (text or b"").decode("utf-8", "replace").split(" ")
        try:
            return cls(*map(int, words[:5]), words[5], *map(int, words[6:9]))  # type: ignore[call-arg, arg-type]
        except (ValueError, TypeError, IndexError):
            return None

    @property
    def moved(self) -> int:
        """How many messages have left the queue's ready list for good, or for later."""
        return self.acked + self.failed + self.buried


class Pace(NamedTuple):
    """How fast a queue went of late: messages per second, over so many ms. ``stalled``: nothing was settled or
    brought back in all of that time, and the same message is the next one."""

    rate: float
    over_ms: int
    stalled: bool


def pace(now: Sample, samples: Sequence[Sample | None]) -> Pace | None:
    """The pace between a sample and now: of the youngest that is old enough. None if there is none."""
    old = [each for each in samples if each is not None and SHORTEST <= now.ms - each.ms <= LONGEST]
    if not old:
        return None
    then = max(old, key=lambda each: each.ms)
    over, moved = now.ms - then.ms, now.moved - then.moved
    if moved < 0:  # the counters were deleted
        return None
    stalled = (moved, now.reaped, now.head) == (0, then.reaped, then.head) and now.head != ""
    return Pace(moved * 1000 / over, over, stalled)


class Rates(NamedTuple):
    """How a queue went over so many ms: messages per second that came in (None: unknown) and that left for good or
    were given up; the share of attempts that did not end in an ack (None: there was none)."""

    over_ms: int
    come: float | None
    out: float
    failing: float | None


#: Rates are told over a minute: of two samples that are half a minute apart one is old enough, and none too old.
_MINUTE: Final = 120_000


def rates(now: Sample, samples: Sequence[Sample | None], *, shortest: int = SHORTEST) -> Rates | None:
    """The rates between a sample and now: of the oldest that is of the last two minutes. None if there is none, as
    nobody was on duty."""
    old = [each for each in samples if each is not None and shortest <= now.ms - each.ms <= _MINUTE]
    if not old:
        return None
    then = min(old, key=lambda each: each.ms)
    over, acked, failed = now.ms - then.ms, now.acked - then.acked, now.failed - then.failed
    buried = now.buried - then.buried
    if min(acked, failed, buried) < 0:  # the counters were deleted
        return None
    come = None
    if then.total >= 0 and now.total >= 0:  # what came is there still, or has left
        left = acked + now.removed - then.removed - (now.restored - then.restored)
        come = max(0, now.total - then.total + left) * 1000 / over
    ended = acked + failed + buried
    return Rates(over, come, (acked + buried) * 1000 / over, (failed + buried) / ended if ended else None)


_COUNTED: Final = ("ack", "retry", "bury", "reap", "discard", "restore", "cancel", "purge")


def counters(keys: Keys) -> Command:
    """Parses to (the last two samples, the counters as they are now: those of _COUNTED)."""

    def parse(reply: Any) -> tuple[list[Sample | None], list[int]]:
        before, last, *counted = reply
        return [Sample.parse(before), Sample.parse(last)], [int(c) if c and c.isdigit() else 0 for c in counted]

    names = ("sampled_before", "sampled", *_COUNTED)
    return Command("HMGET", (keys.stats,), names, parse, idempotent=True, queue=keys.queue)


def now_g(keys: Keys, ms: int, total: int) -> Flow[tuple[Sample, list[Sample | None]]]:
    """How far the queue has come at this moment, server ms, with so many messages in it; the last two samples."""
    samples, (acked, failed, buried, reaped, removed, restored, cancelled, purged) = yield counters(keys)
    return Sample(ms, acked, failed, buried, reaped, "", total, removed + cancelled + purged, restored), samples
