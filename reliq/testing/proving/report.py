"""What a proof has found, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reliq.testing.proving.effects import DOUBLED, EXTRA, MISSING, Difference
from reliq.testing.proving.schedules import FAIL, KILL, LOSE, ORDER, OVERLAP, Schedule


@dataclass(frozen=True)
class Finding:
    """One way in which the handler fails: the smallest schedule of its kind that was found. ``story``: what
    happened, step by step; ``differences``: of the effects, from those without a fault."""

    schedule: Schedule
    story: list[str]
    differences: list[Difference]

    @property
    def kind(self) -> str:
        """What happened: "delivered twice", "killed", "lease lost half-way", "failed half-way", "out of order"
        or "two at once"."""
        return self.schedule.name

    def advice(self) -> str:
        """What usually helps."""
        kinds = {difference.kind for difference in self.differences}
        if self.schedule.kind == OVERLAP:
            return "What one reads and then writes has to be one step: a transaction, or a condition in the write."
        if self.schedule.name == ORDER:
            return "What is older must not win: compare a version of the data in the write, or put(ordering_key=)."
        if MISSING in kinds and self.schedule.kind in (KILL, FAIL):
            return "Something says that it is done before it is: let effect and mark be one transaction."
        if self.schedule.kind == LOSE:
            return (
                "Let the store compare: a unique key for what is there once, lease.fence for what is overwritten."
            )
        if kinds & {DOUBLED, EXTRA}:
            return (
                "Write lease.id in the same transaction as the effect, under a unique key, or make it an upsert."
            )
        return "Let all effects be one transaction, with a key of the message (lease.id) in it."


@dataclass
class Proof:
    """What came of it. ``schedules``: how many were played; ``findings``: by kind; ``notes``: what was not
    tried."""

    handler: str
    bodies: list[Any]
    schedules: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the effects were as they are to be, whatever happened."""
        return not self.findings

    def __str__(self) -> str:
        head = f"{self.handler}: {self.schedules} schedules with {len(self.bodies)} bodies"
        if self.ok:
            return "\n".join([f"{head}, and its effects are always the same", *_told(self.notes)])
        lines = [f"{head}; its effects are others if it is " + ", ".join(each.kind for each in self.findings)]
        for finding in self.findings:
            lines += ["", f"{finding.kind}: schedule={str(finding.schedule)!r}"]
            lines += [
                f"    body {number}: {self.bodies[number - 1]!r:.100}" for number in finding.schedule.numbers
            ]
            lines += [f"    {step}" for step in finding.story]
            lines += [f"  {difference}" for difference in finding.differences[:10]]
            lines += [f"  and {len(finding.differences) - 10} more"] if len(finding.differences) > 10 else []
            lines += [f"  {finding.advice()}"]
        return "\n".join([*lines, "", *_told(self.notes), "prove(…, schedule=…) plays one of them again."])


def _told(notes: list[str]) -> list[str]:
    return [f"Note: {note}" for note in notes]


class NotIdempotent(AssertionError):
    """The effects of a handler depend on what happens to its messages. ``.proof``: how."""

    def __init__(self, proof: Proof) -> None:
        super().__init__(str(proof))
        self.proof = proof


class Unprovable(AssertionError):
    """There is nothing to compare with: the handler fails by itself, or its world is not as new after a reset."""
