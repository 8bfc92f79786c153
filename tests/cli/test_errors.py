"""`reliq errors`: a code is explained wherever it was seen; no Redis is needed for that."""

from __future__ import annotations

import pytest

from reliq.core.reasons import Kind, Reason
from tests.cli.conftest import Commands


def test_one_code(no_server: Commands) -> None:
    """What it means, where it comes from, what to do: for people and for programs."""
    result = no_server("errors", "dead-poison")
    assert (result.status, result.err) == (0, "")
    first, *more = result.out.splitlines()
    assert first == f"DEAD_POISON: {Reason.DEAD_POISON.summary}"
    told = ["cause", *Reason.DEAD_POISON.cause.split(), "remedy", *Reason.DEAD_POISON.remedy.split()]
    assert " ".join(more).split() == told
    assert all(len(line) <= 100 for line in more)
    document = no_server("errors", "POISON", "--json").json  # as a dead letter stores it
    assert document == {
        "schema": 1, "code": "DEAD_POISON", "kind": "dead", "summary": Reason.DEAD_POISON.summary,
        "cause": Reason.DEAD_POISON.cause, "remedy": Reason.DEAD_POISON.remedy,
    }  # fmt: skip


def test_all_codes(no_server: Commands) -> None:
    """Each code stands there once, under what it is about."""
    out = no_server("errors").out
    for kind in Kind:
        assert f"{kind.value}:\n" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == [*Reason]
    document = no_server("errors", "--json").json
    assert [each["code"] for each in document["reasons"]] == [*Reason]
    assert all(each["remedy"] for each in document["reasons"])


@pytest.mark.parametrize(
    ("code", "means"), [("OOM", "QUEUE_FULL"), ("noauth", "ACCESS_DENIED"), ("MOVED", "UNAVAILABLE")]
)
def test_a_code_of_redis(no_server: Commands, code: str, means: str) -> None:
    """What Redis answered leads to what reliq raises."""
    result = no_server("errors", code)
    assert result.out.startswith(
        f"{code.upper()} is an answer of Redis, which reliq raises as {means}.\n{means}: "
    )
    assert no_server("errors", code, "--json").json["code"] == means


def test_no_such_code(no_server: Commands) -> None:
    """One line with the nearest code, and how to see all."""
    result = no_server("errors", "NO_CONSUMER")
    assert (result.status, result.out) == (2, "")
    assert result.error.startswith("reliq: there is no code 'NO_CONSUMER' (did you mean 'NO_CONSUMERS' or ")
    assert result.error.endswith("?); reliq errors lists all\n")
    assert "did you mean" not in no_server("errors", "xyz").error


def test_an_error_names_its_code(no_server: Commands) -> None:
    """What a command complains of can be asked for; wrong use needs no code."""
    error = no_server("status").error
    assert error.startswith("reliq: UNAVAILABLE: ")
    assert no_server("errors", "UNAVAILABLE").status == 0
    assert "CONFIG" not in no_server("status", "--nonsense").error
