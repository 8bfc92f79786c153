"""Bringing back what consumers held that are no more: the flows of a reaper, and what it reports.

A producer needs none of this, and does not import it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reliq import defaults
from reliq.core import ops
from reliq.core.command import Flow
from reliq.core.keys import Keys
from reliq.errors import ConfigError, ReliqError, given


@dataclass
class ReapReport:
    """What one pass of the reaper found and did in one queue.

    ``returned``: messages that went back to ready; ``buried``: dead-lettered as POISON;
    ``consumers``: names whose messages went back; ``adopted``: unregistered lists that were given a lease
    and are reaped when it ends; ``waiting``: expired consumers that were left alone, because the server
    has not been up, or was silent, in the last lease; ``errors``: what a consumer's reap failed with (others
    went on).
    """

    queue: str
    returned: int = 0
    buried: int = 0
    consumers: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, other: ReapReport) -> None:
        """Add what another pass found and did."""
        self.returned += other.returned
        self.buried += other.buried
        for name in ("consumers", "adopted", "waiting", "errors"):
            getattr(self, name).extend(getattr(other, name))

    def __str__(self) -> str:
        text = f"queue {self.queue}: {self.returned} back to ready"
        if self.buried:
            text += f", {self.buried} dead-lettered as POISON"
        for name in ("consumers", "adopted", "waiting", "errors"):
            if getattr(self, name):
                text += f"; {name}: {', '.join(getattr(self, name))}"
        return text


def checked(interval: float) -> float:
    """Seconds between two passes; ConfigError if they are none."""
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval < 1e9:
        raise ConfigError(f"Reaper(interval={given(interval)}): seconds between two passes, above 0")
    return interval


class Patience:
    """Whether a reaper may believe that a lease is over: while Redis answered nobody, nobody could renew, and
    when its time of day jumps, all leases look over. Then nothing is reaped for one lease (DESIGN 9.10).
    ``clock`` gives seconds, as ``lease`` is."""

    def __init__(self, lease: float, clock: Callable[[], float]) -> None:
        self._lease, self._clock = lease, clock
        self._asked_at = clock()
        self._failed = False
        self._hold_until = 0.0
        self._offset: float | None = None

    def ask(self) -> None:
        """Redis is asked who is over its lease."""
        self._asked_at = self._clock()

    def failed(self) -> None:
        """It gave no answer."""
        self._failed = True

    def holds(self, server_ms: int, asked_at: float | None = None) -> bool:
        """It has answered, at this time of its own, what it was asked then (None: when ``ask`` was called):
        whether that is to be doubted, because it took so long, failed before, or its clock has jumped since."""
        now = self._clock()
        asked_at = self._asked_at if asked_at is None else asked_at
        offset, before = server_ms / 1000 - now, self._offset
        self._offset = offset
        jumped = before is not None and abs(offset - before) > self._lease / 2
        if jumped or self._failed or now - asked_at > self._lease / 2:
            self._failed, self._hold_until = False, now + self._lease
        return now < self._hold_until


def reap_expired_g(
    keys: Keys,
    *,
    lease: float,
    server: str,
    max_losses: int,
    patience: Patience,
    recent: float | None = None,
) -> Flow[ReapReport]:
    """One pass over the consumers whose lease is over (``recent``: since so many seconds at most). A pass
    that finds none is one call."""
    report = ReapReport(keys.queue)
    offset = 0
    while True:
        server_ms, names = yield ops.expired(keys, offset, defaults.SCRIPT_ELEMENTS, recent)
        if patience.holds(server_ms):
            report.waiting += names
            return report
        yield from _reap_each_g(keys, names, report, lease=lease, server=server, max_losses=max_losses)
        offset += len(names)
        if len(names) < defaults.SCRIPT_ELEMENTS:
            return report
        patience.ask()


def adopt_strays_g(
    keys: Keys, cursor: int, steps: int, *, lease: float, server: str, max_losses: int
) -> Flow[tuple[ReapReport, int]]:
    """Some bounded steps of the search for lists without a registration: they get one, with a lease, and
    are reaped when it ends. Returns the report and where the search goes on (0: from the start)."""
    report = ReapReport(keys.queue)
    for _ in range(steps):
        cursor, found = yield ops.scan_lists(keys, cursor)
        if found:
            registered = {name for name, _ in (yield ops.consumers(keys))}
            strays = [name for name in found if name not in registered]
            yield from _reap_each_g(keys, strays, report, lease=lease, server=server, max_losses=max_losses)
        if cursor == 0:
            break
    return report, cursor


def _reap_each_g(
    keys: Keys, names: list[str], report: ReapReport, *, lease: float, server: str, max_losses: int
) -> Flow[None]:
    """First calls for all of them in pipelines, which Redis runs in one go, so that all of one together move no
    more than one call may; those with more to give go on one by one."""
    options: dict[str, Any] = {"lease": lease, "server": server, "max_losses": max_losses}
    for start in range(0, len(names), 100):
        batch = names[start : start + 100]
        each = defaults.REAP_ELEMENTS // len(batch)
        replies = yield [ops.reap(keys, name, elements=each, **options) for name in batch]
        for name, first in zip(batch, replies, strict=True):
            reply = first
            while _note(report, name, reply):
                try:
                    reply = yield ops.reap(keys, name, **options)
                except ReliqError as error:  # no reason to leave the others where they are
                    reply = error


def _note(report: ReapReport, name: str, reply: ops.Reaped | Exception) -> bool:
    """Add one answer to the report; True if there is more to take from this consumer."""
    if isinstance(reply, Exception):
        report.errors.append(f"{name}: {reply}")
        return False
    if reply.status == "waiting":
        report.waiting.append(name)
    elif reply.status == "adopted":
        report.adopted.append(name)
    if reply.returned or reply.buried:
        report.returned += reply.returned
        report.buried += reply.buried
        if name not in report.consumers:
            report.consumers.append(name)
    return reply.more


def reap_dead_g(keys: Keys, consumer: str, *, max_losses: int, started: list[bytes] | None) -> Flow[ReapReport]:
    """Requeue at once what a consumer held whose process was seen to die; its name is dead for good."""
    report = ReapReport(keys.queue)
    command = ops.reap(keys, consumer, dead=True, max_losses=max_losses, started=started)
    while _note(report, consumer, (yield command)):
        pass
    return report
