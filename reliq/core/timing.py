"""When a schedule ticks: by a cron expression in a time zone, or every so many seconds. Times are Unix ms.

An interval ticks at the multiples of its length since the Unix epoch, and a cron expression where its calendar
says, so whoever computes a tick gets the same one, and to add a schedule again shifts nothing.

Where clocks are put forward or back, cron expressions do as cron in Debian does, which is what ``cronsim``
computes: a fixed time of day that there is not comes right after the gap, one that there is twice comes once, and
every full hour comes every hour. Those with seconds know no such rules: what there is not is left out, what there
is twice comes twice.
"""

from __future__ import annotations

from datetime import datetime, timezone, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from reliq.errors import ConfigError, given

if TYPE_CHECKING:
    from cronsim import CronSim

#: Seconds: a queue is no clock for less, and what comes once a year has a calendar.
EVERY_LEAST: Final = 1.0
EVERY_MOST: Final = 366 * 86_400.0


class Timing(NamedTuple):
    """``cron``: an expression of 5 fields, or of 6 with seconds first; or ``every``: ms. ``tz``: an IANA name."""

    cron: str | None
    every: int | None
    tz: str

    def after(self, ms: int) -> int | None:
        """The first tick after this time; None if there is none within fifty years."""
        if self.every is not None:
            return (ms // self.every + 1) * self.every
        return _after(self.cron or "", self.tz, ms)

    def last(self, ms: int) -> int | None:
        """The last tick up to this time; None if there is none within fifty years. As quick for a long gap as for
        a short one."""
        if self.every is not None:
            return ms // self.every * self.every
        found = next(_simulated(self.cron or "", _at(ms + 1000, _zone(self.tz)), reverse=True), None)
        if found is None:
            return None
        tick = _ms(found)
        while (following := self.after(tick)) is not None and following <= ms:
            tick = following  # looked at backwards, some are missed where clocks are put forward
        return tick

    def time(self, ms: int) -> datetime:
        """This time in the schedule's zone."""
        return datetime.fromtimestamp(ms / 1000, timezone.utc).astimezone(_zone(self.tz))


def checked(cron: str | None, every: float | None, tz: str) -> Timing:
    """What a schedule is given, if it is a timing; ConfigError says what is wrong with it."""
    if (cron is None) == (every is None):
        raise ConfigError('schedule(cron=, every=): give one of them, as in cron="0 7 * * MON-FRI" or every=30')
    if not isinstance(tz, str):
        raise ConfigError(f"schedule(tz={tz!r}): the name of a time zone, as in tz='Europe/Vienna'")
    _zone(tz)
    if cron is None:
        return Timing(None, _interval(every), tz)
    if not isinstance(cron, str):
        raise ConfigError(f"schedule(cron={cron!r}): a text of 5 fields, or of 6 with seconds first")
    timing = Timing(" ".join(cron.split()), None, tz)
    if timing.after(0) is None:
        raise ConfigError(f"schedule(cron={cron!r}): there is no such day")
    return timing


def _interval(every: float | None) -> int:
    is_number = isinstance(every, int | float) and not isinstance(every, bool)
    if not is_number or not EVERY_LEAST <= every <= EVERY_MOST:  # type: ignore[operator]
        raise ConfigError(
            f"schedule(every={given(every)}): seconds, from {EVERY_LEAST:g} to {EVERY_MOST:,.0f} (366 days); for "
            "what comes more often, let one message do several things"
        )
    return round(every * 1000)  # type: ignore[operator]


@lru_cache(maxsize=4096)  # many schedules of one queue tick together
def _after(cron: str, tz: str, ms: int) -> int | None:
    found = _simulated(cron, _at(ms, _zone(tz)))
    while (tick := next(found, None)) is not None:
        if (after := _ms(tick)) > ms:  # in an hour that comes twice it may go back
            return after
    return None


def _simulated(cron: str, start: datetime, *, reverse: bool = False) -> CronSim:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise ConfigError(
            f"schedule(cron={cron!r}): cron expressions need the package cronsim: pip install 'reliq[cron]' "
            "(in every program that schedules, and where workers run); every= needs nothing"
        ) from None
    try:
        return CronSim(cron, start, reverse=reverse)
    except (CronSimError, AssertionError) as error:
        raise ConfigError(
            f"schedule(cron={cron!r}): {str(error) or 'it cannot be read'}. Five fields (minute, hour, day of the "
            "month, month, day of the week), or six with seconds first, as in '0 7 * * MON-FRI'"
        ) from None


@lru_cache(maxsize=256)
def _zone(tz: str) -> tzinfo:
    if tz == "UTC":
        return timezone.utc
    from zoneinfo import ZoneInfo  # reads where the system has its zones

    try:
        return ZoneInfo(tz)
    except (LookupError, ValueError, OSError):
        raise ConfigError(
            f"schedule(tz={tz!r}): there is no such time zone here. The names are those of the IANA, as in "
            "'Europe/Vienna'; where the system has none of them (Windows, small containers): pip install tzdata"
        ) from None


def _at(ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(ms // 1000, timezone.utc).astimezone(zone)


def _ms(time: datetime) -> int:
    return round(time.timestamp()) * 1000
