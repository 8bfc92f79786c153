"""The vocabulary of reasons is closed: whatever the code says is in it, and it says nothing that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import reliq
from reliq import errors
from reliq.core import reasons
from reliq.core.reasons import Kind, Reason

ROOT = Path(reliq.__file__).parent
WIRE = (ROOT / "core" / "wire.md").read_text("utf-8")


def kinds_of_errors(base: type[errors.ReliqError] = errors.ReliqError) -> Iterator[type[errors.ReliqError]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds_of_errors(kind)


def test_a_reason_is_its_code() -> None:
    """The name, the value, the text and the JSON of a reason are one."""
    for name, reason in Reason.__members__.items():
        assert reason == name
        assert (str(reason), f"{reason}", json.dumps(reason)) == (name, name, f'"{name}"')


def test_codes_are_told_apart_and_explained() -> None:
    """No code stands for two things; each says what it means, where it comes from and what to do, in one line."""
    assert len({reason.summary for reason in Reason}) == len(Reason)
    assert [*Reason] == [*reasons._TEXTS], "no texts of what is no reason, and all in the same order"
    for reason in Reason:
        assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", reason)
        for text in (reason.summary, reason.cause, reason.remedy):
            assert 5 < len(text) < 120, reason
            assert "\n" not in text
            assert not text.endswith("."), "they stand inside of sentences"


@pytest.mark.parametrize("kind", sorted(set(kinds_of_errors()), key=lambda kind: kind.__name__))
def test_every_error_has_its_reason(kind: type[errors.ReliqError]) -> None:
    """The code of each class of errors is in the vocabulary; that of Bury is the cause of a dead letter."""
    if kind is errors.DecodeError:
        return  # it has none of its own: its code is the cause
    if kind.__module__ != errors.__name__:
        assert "code" not in vars(kind), "only the public tree has codes"
        return
    found = reasons.find(kind.code)
    assert found is not None
    assert found.kind in (Kind.ERROR, Kind.VERDICT) or kind is errors.Bury


def test_every_cause_has_its_reason() -> None:
    """Each cause that the wire format names and that the code stores is a reason of its own."""
    [row] = re.findall(r"`cause` \((.*?)or the code of a DecodeError", WIRE, re.DOTALL)
    named = set(re.findall(r"`([A-Z_]+)`", row))
    sources = "".join(path.read_text("utf-8") for path in ROOT.rglob("*.*") if path.suffix in (".py", ".lua"))
    stored = set(re.findall(r"""cause = '([A-Z_]+)'|\.bury\(\w+, "([A-Z_]+)\"""", sources))
    assert {a or b for a, b in stored} >= {"POISON", "TOO_LARGE", "ATTEMPTS", "BURIED"}
    # Who waits for a result is told of what is no dead letter, too.
    told = {"CANCELLED", "REPLACED"}
    assert all(Reason[cause].kind is Kind.MESSAGE for cause in told)
    for cause in (named | {a or b for a, b in stored}) - told:
        assert reasons.of_cause(cause) == f"DEAD_{cause}"
        assert reasons.find(cause) in (f"DEAD_{cause}", cause)
    dead = {reason.removeprefix("DEAD_") for reason in Reason if reason.kind is Kind.DEAD}
    assert dead - named == {"OTHER", "BAD_NOTE", "PURGED"}


@pytest.mark.parametrize("cause", ["NO_SUCH_FORMAT", "LETTERS", "", None, 7, "attempts", "_", "DEAD_ATTEMPTS"])
def test_a_cause_of_somebody_elses_is_other(cause: object) -> None:
    """A handler's own code, and whatever else stands there, is DEAD_OTHER: also what looks like one of a queue."""
    assert reasons.of_cause(cause) is Reason.DEAD_OTHER


@pytest.mark.parametrize("word", ["WAITING_TURN", "waiting_turn", "waiting-turn", " Waiting_Turn "])
def test_a_code_is_found_however_it_is_written(word: str) -> None:
    """People type codes."""
    assert reasons.find(word) is Reason.WAITING_TURN


def test_no_code_is_found_for_no_code() -> None:
    """Nothing is guessed."""
    assert [reasons.find(word) for word in ("", "WAITING", "DEAD_", "KIND")] == [None] * 4


def test_what_is_usual_is_no_trouble() -> None:
    """Of the reasons that a message can have, those that need somebody are the others."""
    assert {reason.kind for reason in reasons.USUAL} == {Kind.MESSAGE}
    assert not reasons.USUAL & {Reason.NO_CONSUMERS, Reason.LEASE_EXPIRED, Reason.DONE_OR_NEVER_PUT}
