"""A slice of the million of ``tests.fuzz.envelopes``, always the same; and that the other opinion is one."""

from __future__ import annotations

from typing import Any

import pytest

from reliq.core import envelope as env
from tests.fuzz import envelopes, fates, mutants


@pytest.mark.parametrize("shell", ["sync", "aio"])
def test_none_crashes_and_none_is_dropped(server: Any, prefix: str, shell: str) -> None:
    """5,000 a server and shell: count in is count out, each end is the one that wire.md says, by all codecs."""
    first = {"sync": 0, "aio": 4}[shell]
    tally = envelopes.run(server, prefix, count=5000, seed=1, first=first, shell=shell, size=1250)
    ended = {end for (_, end), n in tally.ends.items() if n}
    assert ended == set(envelopes.ENDS)
    assert {kind for kind, _ in tally.ends} == set(mutants.KINDS)


def test_a_batch_is_always_the_same() -> None:
    """What failed once can be run again."""
    assert mutants.batch(7, 3, 500) == mutants.batch(7, 3, 500) != mutants.batch(7, 4, 500)


def test_the_other_opinion_sees_what_was_done() -> None:
    """The yardstick itself, by hand: what is sealed is an envelope, whatever else is wrong with it."""
    whole = mutants.seal(b"i" * 16 + b"\x81\xa1c\xa4json" + b"[1]")
    assert fates.verdict(whole, None) == (fates.MESSAGE, [1])
    assert fates.verdict(whole[:-1], "bytes") == (fates.RAW, whole[:-1])
    assert fates.verdict(whole[:-1], None) == ("UNDECODABLE", None)
    for sealed, end in (
        (mutants.seal(whole[23:], version=2), "UNSUPPORTED_VERSION"),
        (mutants.seal(whole[23:], length=5), "BAD_LENGTH"),
        (mutants.seal(b"i" * 16 + b"\x90"), "BAD_META"),
        (mutants.seal(b"i" * 16 + b"\x80\xc1"), "UNDECODABLE"),
    ):
        assert fates.verdict(sealed, "bytes") == (end, None)
    back = fates.after_reap(whole, started=True)
    assert back is not None
    assert env.unpack(back)[2:6] == (1, 0, 0, 1)
    assert fates.after_reap(mutants.seal(whole[23:], counters=b"\0" * 8 + b"\2\0"), started=True) is None
