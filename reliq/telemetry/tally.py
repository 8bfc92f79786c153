"""What a worker process counts, in memory that its supervisor can map: one row of numbers for each queue.

Nothing is counted per message but how long handlers ran and messages waited, and that in batches: the answer to a
round trip says what it has settled and brought. Each number has one writer, so there is no lock.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, Final

from reliq.core import envelope as env
from reliq.core.consumer import Answer
from reliq.core.message import ACK, BURY, RELEASE, RETRY, UNROUTED, Message, Settle
from reliq.core.reasons import Kind, Reason, of_cause
from reliq.identity import clock

#: Why messages die, as the closed list of reasons has it: labels stay few whatever handlers raise.
CAUSES: Final = tuple(reason.removeprefix("DEAD_") for reason in Reason if reason.kind is Kind.DEAD)
#: Seconds; the last bucket is for all that took longer.
RUN_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
WAIT_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)

COUNTERS: Final = (
    *("acked", "failed", "put_back", "released", "late", "lost", "reconciled", "trips", "reaped", "poisoned"),
    "unrouted",
    *(f"dead:{cause}" for cause in CAUSES),
)
_AT: Final = {name: place for place, name in enumerate(COUNTERS)}
_RUN: Final = len(COUNTERS)
_WAIT: Final = _RUN + len(RUN_BUCKETS) + 2
_HEADROOM: Final = _WAIT + len(WAIT_BUCKETS) + 2
_WIDTH: Final = _HEADROOM + 3
#: Where an envelope counts these (wire.md).
_RETURNS: Final = slice(13, 17)
_FAILED: Final = slice(17, 19)
#: Seconds of a window; the least headroom is told of this one and the one before.
_WINDOW: Final = 30.0


class Row:
    """The numbers of one queue in one process."""

    def __init__(self, cells: memoryview[float]) -> None:
        self._cells = cells

    def add(self, name: str, n: float = 1) -> None:
        """Count it so many times more."""
        self._cells[_AT[name]] += n

    def ran(self, seconds: Iterable[float]) -> None:
        """Handlers took so long."""
        self._observe(_RUN, RUN_BUCKETS, seconds)

    def waited(self, seconds: Iterable[float]) -> None:
        """Messages were claimed so long after their put."""
        self._observe(_WAIT, WAIT_BUCKETS, seconds)

    def _observe(self, start: int, buckets: Sequence[float], values: Iterable[float]) -> None:
        cells, total = self._cells, start + len(buckets) + 1
        for value in values:
            cells[start + bisect_left(buckets, value)] += 1
            cells[total] += value

    def headroom(self, seconds: float, now: float) -> None:
        """So much of the lease was left when it was renewed."""
        window, cells = now // _WINDOW, self._cells
        if cells[_HEADROOM] != window:
            one_ago = cells[_HEADROOM] == window - 1
            cells[_HEADROOM + 2] = cells[_HEADROOM + 1] if one_ago else seconds
            cells[_HEADROOM], cells[_HEADROOM + 1] = window, seconds
        else:
            cells[_HEADROOM + 1] = min(cells[_HEADROOM + 1], seconds)

    # -- read ---------------------------------------------------------------------------------------------

    def count(self, name: str) -> float:
        """How often."""
        return self._cells[_AT[name]]

    @property
    def runs(self) -> tuple[list[float], float]:
        """In each bucket so many runs, and the seconds of all."""
        return self._histogram(_RUN, RUN_BUCKETS)

    @property
    def waits(self) -> tuple[list[float], float]:
        """In each bucket so many waits, and the seconds of all."""
        return self._histogram(_WAIT, WAIT_BUCKETS)

    def _histogram(self, start: int, buckets: Sequence[float]) -> tuple[list[float], float]:
        end = start + len(buckets) + 1
        return list(self._cells[start:end]), self._cells[end]

    def least_headroom(self, now: float) -> float | None:
        """The least of the last half to whole minute, seconds; None if nothing was renewed in that time."""
        window, least, before = self._cells[_HEADROOM : _HEADROOM + 3].tolist()
        if window == 0 or window < now // _WINDOW - 1:
            return None
        return min(least, before)


class Tally:
    """The rows of a process. ``memory``: at least ``size`` bytes of zeros that others map too, or its own."""

    def __init__(self, queues: Sequence[str], memory: Any = None) -> None:
        self.queues = list(queues)
        cells = memoryview(bytearray(self.size(queues)) if memory is None else memory).cast("B").cast("d")
        rows = (cells[n * _WIDTH : (n + 1) * _WIDTH] for n in range(len(self.queues)))
        self.rows = {queue: Row(row) for queue, row in zip(self.queues, rows, strict=True)}

    @staticmethod
    def size(queues: Sequence[str]) -> int:
        """Bytes of memory that it takes."""
        return 8 * _WIDTH * len(queues)

    def watch(self, queue: str, lease: float) -> Watch:
        """What counts the round trips of one queue."""
        return Watch(self.rows[queue], lease)


class Watch:
    """Is told of the round trips of one consumer, one after the other, and of each run of a handler."""

    def __init__(self, row: Row, lease: float) -> None:
        self.row = row
        self._lease = lease
        self._sent_at: float | None = None
        self._runs: deque[float] = deque()

    def timed(self, function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
        """The same function, with a note of how long each call took."""
        note, now = self._runs.append, perf_counter

        @functools.wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            started = now()
            try:
                return function(*args, **kwargs)
            finally:
                note(now() - started)

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            started = now()
            try:
                return await function(*args, **kwargs)
            finally:
                note(now() - started)

        return coroutine if is_async else plain

    def __call__(self, answer: Answer, owed: int, sent_at: float) -> None:
        """An answer has come to a trip that was sent then, and settled ``owed`` messages."""
        row = self.row
        row.add("trips")
        if answer.reconciled:
            row.add("reconciled")
        if answer.lost:
            row.add("lost", len(answer.lost))
        others = [settle for settle in answer.settled if settle.verb != ACK or not settle.accepted]
        row.add("acked", owed - len(others))
        for settle in others:
            row.add(_outcome(settle))
        if self._runs:
            row.ran(self._taken())
        if answer.messages:
            row.waited(_waits(answer.messages, answer.server_ms))
        now = clock()
        if self._sent_at is not None:
            row.headroom(self._lease - (now - self._sent_at), now)
        self._sent_at = sent_at

    def reaped(self, returned: int, buried: int) -> None:
        """This process has brought back what dead consumers of the queue held."""
        self.row.add("reaped", returned)
        self.row.add("poisoned", buried)

    def _taken(self) -> Iterable[float]:
        for _ in range(len(self._runs)):
            yield self._runs.popleft()


def _outcome(settle: Settle) -> str:
    """Which counter."""
    if not settle.accepted:
        return "late"
    if settle.verb == RETRY:
        return "failed" if settle.back[_FAILED] != settle.message.element[_FAILED] else "put_back"
    if settle.verb == UNROUTED:
        return "unrouted"
    if settle.verb == BURY:
        return f"dead:{of_cause(settle.detail).removeprefix('DEAD_')}"
    assert settle.verb == RELEASE
    return "released"


def _waits(messages: Iterable[Message], now_ms: int) -> Iterable[float]:
    """Seconds between put and claim, of those that come for the first time and tell when they were put."""
    for message in messages:
        element = message.element
        if any(element[_RETURNS]) or (env.plain_body(element) is None and "r" in message.envelope.meta):
            continue
        made = env.made_ms(element)
        if made is not None:
            yield max(0.0, (now_ms - made) / 1000)
