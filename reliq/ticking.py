"""What schedulers of both shells share: which flow fires, for how long to wait, and what people are told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from reliq.errors import OutcomeUnknown, QueueFull, ReliqError, Unavailable
from reliq.identity import host_name, program
from reliq.logging import log
from reliq.model import QueueOptions

if TYPE_CHECKING:
    from reliq.core.command import Flow
    from reliq.core.ticks import Fired

#: Seconds that an idle scheduler waits at most: so soon it notices what was added.
_INTERVAL: Final = 1.0
#: What passes by itself: a tick stays due meanwhile, and is tried again.
PASSING: Final = (Unavailable, OutcomeUnknown, QueueFull)


class Ticking:
    """One line about each trouble when it begins, and one when it is over; not one for each try."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._unread: dict[tuple[str, str], str] = {}

    def flow(self, options: QueueOptions, *, politely: bool) -> Flow[Fired]:
        """Fires what is due in a queue."""
        from reliq.core.ticks import fire_g  # most workers never need it

        by = f"{host_name()}:{os.getpid()}"
        return fire_g(options.keys, by, program(), options.traces, politely=politely)

    def done(self, queue: str, fired: Fired) -> float:
        """Note what a pass did; returns seconds until the next one is worth it."""
        if queue in self._failing:
            self._failing.discard(queue)
            log.warning("queue %r: its schedules are fired again", queue)
        fresh = {n: problem for n, problem in fired.unread.items() if self._unread.get((queue, n)) != problem}
        if fresh:
            self._unread |= {(queue, name): problem for name, problem in fresh.items()}
            log.error(
                "queue %r: %d schedule(s) that this program cannot fire, the first: %s. See reliq schedule ls",
                queue, len(fresh), next(iter(fresh.values())),
            )  # fmt: skip
        return _INTERVAL if fired.wait is None else min(_INTERVAL, max(fired.wait, 1) / 1000)

    def failed(self, queue: str, error: ReliqError) -> float:
        """Note that a pass failed; returns seconds until the next one is worth it."""
        if queue not in self._failing:
            self._failing.add(queue)
            text = str(error).removeprefix(f"queue {queue!r}: ")
            log.error("queue %r: its schedules wait: %s What is due stays due; trying again.", queue, text)
        return _INTERVAL
