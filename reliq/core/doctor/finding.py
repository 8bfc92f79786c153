"""What a check is, and what it finds.

A check is a function from facts to what it sees in them: nothing, if all is well. What it stands for is a reason
of the vocabulary (``core/reasons``), which says what comes of it and what to do. A fact that the server does
not show raises CannotSee, and the check says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from reliq.core.reasons import Reason

F = TypeVar("F")
T = TypeVar("T")

Severity = Literal["error", "warning", "unseen", "info", "ok"]
ORDER: Final[tuple[Severity, ...]] = ("error", "warning", "unseen", "info", "ok")
"""The worst first. An *error* loses messages or stops them; a *warning* will, or makes them late; *unseen* was not
shown to us; an *info* is a choice that one should know of."""


class CannotSee(Exception):
    """This fact is not shown, by this server or to this user; the text is the reason."""


def seen(fact: T | CannotSee) -> T:
    """The fact; raises CannotSee if there is only the reason why it is not known."""
    if isinstance(fact, CannotSee):
        raise fact
    return fact


class Seen(NamedTuple):
    """What a check saw. ``remedy``: what to do in this very case, if more than the reason's own can be said."""

    severity: Severity
    evidence: str
    remedy: str = ""


class Finding(NamedTuple):
    """One line of the report. ``subject``: the server or queue that it is about; empty if it is all of them."""

    code: Reason
    severity: Severity
    subject: str
    evidence: str
    consequence: str
    remedy: str


Judge = Callable[[F], Iterable[Seen]]


@dataclass(frozen=True)
class Check(Generic[F]):
    """One thing that the doctor looks at. ``looks_at``: what that is, for people."""

    code: Reason
    looks_at: str
    judge: Judge[F]

    def findings(self, facts: F, subject: str) -> Iterator[Finding]:
        """What is wrong in these facts, or what could not be seen of them."""
        try:
            for severity, evidence, remedy in self.judge(facts):
                yield Finding(
                    self.code, severity, subject, evidence, self.code.summary, remedy or self.code.remedy
                )
        except CannotSee as blind:
            yield Finding(self.code, "unseen", subject, f"cannot see {self.looks_at}: {blind}", "", "")

    def fine(self) -> Finding:
        """There is nothing to find."""
        return Finding(self.code, "ok", "", self.looks_at, "", "")


def check(code: Reason, looks_at: str) -> Callable[[Judge[F]], Check[F]]:
    """Make a check of a function."""
    return lambda judge: Check(code, looks_at, judge)
