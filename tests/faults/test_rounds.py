"""Every kind of fault, a few seconds each, from a fixed seed: the slice of scripts/faults that every test run has.

The servers take turns: each kind is played on one of them here, and on all of them by scripts/faults.
"""

from __future__ import annotations

import os

import pytest

from tests.faults import rounds
from tests.servers import NO_SERVER, find_servers

SEED = 20_261
SECONDS = float(os.environ.get("RELIQ_LAB_SECONDS", "2"))
"""Of harm in each round."""
KINDS = rounds.load_kinds()
BINARIES = find_servers()


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_lost_and_every_invariant_is_kept(name: str) -> None:
    """One round of this kind of fault; the report of a failure says how to play it again."""
    kind = KINDS[name]
    able = [binary for binary in BINARIES if binary.version_info >= kind.needs]
    if not BINARIES:
        pytest.fail(NO_SERVER)
    if not able:
        pytest.skip(f"{name} needs Redis {kind.needs}")
    place = list(KINDS).index(name)
    outcome = rounds.play(kind, able[place % len(able)], SEED + place, seconds=SECONDS)
    print(outcome.text)
    assert outcome.report.ok, outcome.text
    assert not outcome.report.lost
    assert sum(outcome.done.values()) > 0


def test_what_needs_a_server_that_is_not_here_is_skipped_by_name() -> None:
    """The matrix names what nobody could run."""
    assert {"fsync-per-put", "redis-8", "valkey"} <= set(rounds.SKIPS)
    assert not set(rounds.SKIPS) & set(KINDS)


def test_a_kind_is_found_in_another_module_and_takes_the_place_of_its_skip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """rounds_replicated.py and others register kinds without a change here."""
    monkeypatch.setattr(rounds, "KINDS", {})
    monkeypatch.setattr(rounds, "SKIPS", {"sentinel-failover": "not yet"})

    @rounds.fault("sentinel-failover", causes=("reap",))
    def harm(r: rounds.Round) -> None:
        """A failover."""

    assert rounds.KINDS["sentinel-failover"].what == "A failover."
    assert rounds.SKIPS == {}


def test_a_round_whose_fault_never_happened_shows_nothing() -> None:
    """A pass has to be earned: a harm that does nothing is an error, not a green round."""
    kind = rounds.Kind("nothing", "Nothing.", lambda r: None, workers=(), producers=())
    with pytest.raises(rounds.Vain, match="never happened"):
        rounds.play(kind, BINARIES[0], 1, seconds=0.1)
