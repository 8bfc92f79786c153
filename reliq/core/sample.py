"""How fast a queue goes. Acks leave no trace, but are counted; now and then a consumer writes the counters down,
with the time and the head of the queue, and the difference to now is a rate. It costs the hot path nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from reliq import defaults
from reliq.core import scripts
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys
from reliq.core.ops import sweep_producers

_SCRIPT: Final = scripts.load("sample", after="envelope")
#: Milliseconds between two samples, at least; a rate is told over at least as long, and over no more than LONGEST.
SHORTEST: Final = 10_000
LONGEST: Final = 600_000
#: So many sweeps in a row, at most, while each finds much to do.
SWEEPS: Final = 50


def sample(keys: Keys) -> Command:
    """Write the counters down, unless that was done just now; trim the ledger by age. Parses to whether it was
    done."""
    names = (keys.ready, keys.events, keys.stats)
    args = (SHORTEST, round(defaults.LEDGER_AGE * 1000))
    return Command(_SCRIPT, names, args, lambda reply: reply == 1, idempotent=True, queue=keys.queue)


def keep_g(keys: Keys) -> Flow[None]:
    """What a consumer on duty does every half minute to keep the books: forget idle producers, take a sample."""
    more, _ = all_of((yield [sweep_producers(keys), sample(keys)]))
    for _ in range(SWEEPS):
        if not more:
            break
        more = yield sweep_producers(keys)


class Sample(NamedTuple):
    """The counters of a queue at one moment, server ms. ``head``: the id of the next message, hex."""

    ms: int
    acked: int
    failed: int
    buried: int
    reaped: int
    head: str

    @classmethod
    def parse(cls, text: bytes | None) -> Sample | None:
        """Read what the script wrote; None for anything else."""
        words = (text or b"").decode("utf-8", "replace").split(" ")
        try:
            return cls(*map(int, words[:5]), *words[5:])  # type: ignore[arg-type]
        except (ValueError, TypeError):
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
