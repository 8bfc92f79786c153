"""An outage of Redis ends the lease of nobody who lives: the arithmetic behind it (defaults.CUT_OFF_SHARE)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from reliq import defaults
from reliq.identity import clock
from reliq.working import Stationed, Working

LEASE = 8.0


def test_the_shares_leave_some_of_the_lease() -> None:
    """Age of the last renewal, an outage that the others do not notice, and the pause before the next try."""
    assert 1 / defaults.RENEW_SHARE + 1 / defaults.CUT_OFF_SHARE + 1 / defaults.BACKOFF_SHARE < 1


def test_a_silence_of_half_a_lease_counts_as_cut_off() -> None:
    """Then nothing is reaped for one lease; the usual pause between two renewals is none."""
    station: Any = SimpleNamespace(options=SimpleNamespace(lease=LEASE))
    working = Working[Any](concurrency=1, prefetch=0, grace=1.0)
    now = clock()
    assert working.was_cut_off(station, now - LEASE * 0.51, 0)
    assert not working.was_cut_off(station, now - LEASE / defaults.RENEW_SHARE - 0.5, 0)


def test_the_next_try_is_never_so_late_that_it_costs_the_lease() -> None:
    """However long Redis has been away."""
    station: Any = SimpleNamespace(options=SimpleNamespace(lease=LEASE), _failures=50, _again_at=0.0)
    before = clock()
    Stationed.failed(station)
    assert station._again_at - before <= LEASE / defaults.BACKOFF_SHARE + 0.1
