"""What rounds have shown: one row for each kind of fault, of one run or summed over several.

    Results.text()       for a terminal
    Results.markdown()   for docs/proof.md
    Results.json()       for ``scripts/faults --sum``, which reads it again

What was not run is a named skip and never a pass; a round that could not be played is counted, and no pass either.
What a server has forgotten by a rollback is counted apart from what was lost, and named message by message.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.checker import Report

SCHEMA = 1
HEADINGS = (
    "fault", "rounds", "messages", "lost", "unexpected", "extra deliveries", "worst recovery", "invariants",
)  # fmt: skip


@dataclass
class Row:
    """What the rounds of one kind have shown together. ``extra``: deliveries by cause; ``worst``: seconds."""

    fault: str
    rounds: int = 0
    messages: int = 0
    lost: int = 0
    unexpected: int = 0
    forgiven: int = 0
    extra: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    broken: int = 0
    vain: int = 0

    def add(self, report: Report) -> None:
        """One more round."""
        self.take(
            Row(
                self.fault,
                rounds=1,
                messages=report.attempted,
                lost=len(report.lost),
                unexpected=len(report.unexpected),
                forgiven=len(report.forgiven),
                extra=report.extra,
                worst=report.recovery,
                broken=int(not report.ok),
            )
        )

    def take(self, other: Row) -> None:
        """Add the rounds of another row of this kind."""
        for name in ("rounds", "messages", "lost", "unexpected", "forgiven", "broken", "vain"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.extra = self.extra + other.extra
        self.worst = max(self.worst, other.worst)

    def cells(self) -> tuple[str, ...]:
        """As HEADINGS says."""
        extra = ", ".join(f"{n:,} {cause}" for cause, n in sorted(self.extra.items())) or "0"
        lost = f"{self.lost} (+{self.forgiven} by rollback)" if self.forgiven else str(self.lost)
        verdicts = [f"BROKEN in {self.broken}"] if self.broken else ["kept"] if self.rounds else []
        verdicts += [f"nothing shown in {self.vain}"] if self.vain else []
        numbers = (self.fault, str(self.rounds), f"{self.messages:,}", lost, str(self.unexpected), extra)
        return (*numbers, f"{self.worst:.1f} s", ", ".join(verdicts))


@dataclass
class Run:
    """One call of the command. ``minutes`` of time that it took; ``stopped``: by a signal."""

    seed: int
    servers: list[str]
    minutes: float = 0.0
    stopped: bool = False


@dataclass
class Results:
    """Of one run or several. ``rows`` by kind; ``skipped`` with reasons; ``incidents``: the report of each round
    with a broken invariant; ``vain``: why rounds could not be played; ``forgotten``: each acknowledged put that a
    rollback of the server took back."""

    runs: list[Run] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)
    vain: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def row(self, fault: str) -> Row:
        """That of this kind, made if there is none yet."""
        return self.rows.setdefault(fault, Row(fault))

    def __add__(self, other: Results) -> Results:
        both = Results(
            self.runs + other.runs,
            {},
            self.skipped | other.skipped,
            self.incidents + other.incidents,
            self.vain + other.vain,
            self.forgotten + other.forgotten,
        )
        for row in (*self.rows.values(), *other.rows.values()):
            both.row(row.fault).take(row)
        both.skipped = {name: why for name, why in both.skipped.items() if name not in both.rows}
        return both

    @property
    def status(self) -> int:
        """The exit status: 0 if every invariant was kept in every round, and there was one; else 1."""
        return 1 if self.incidents or self.vain or not self.rows else 0

    # -- on paper

    def text(self) -> str:
        """Columns; then what was skipped, and the sum of it all."""
        lines = [HEADINGS, *(row.cells() for row in self.rows.values())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
        lines.insert(1, tuple("-" * width for width in widths))
        skips = [f"{name.ljust(widths[0])}  SKIPPED: {why}" for name, why in self.skipped.items()]
        return "\n".join([*_columns(lines, widths), *skips, self.summary()])

    def markdown(self) -> str:
        """The same as a table of Markdown, with the summary below."""
        lines: list[Sequence[str]] = [HEADINGS, ["---", *["---:"] * 4, "---", "---:", "---"]]
        lines += [row.cells() for row in self.rows.values()]
        lines += [(name, *("" for _ in HEADINGS[2:]), f"skipped: {why}") for name, why in self.skipped.items()]
        return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", self.summary()])

    def summary(self) -> str:
        """One line, with what is needed to play it all again."""
        runs, all_ = self.runs, Row("all")
        for row in self.rows.values():
            all_.take(row)
        minutes = sum(run.minutes for run in runs)
        servers = ", ".join(sorted({server for run in runs for server in run.servers}))
        seeds = f"seed{'s' if len(runs) > 1 else ''} {', '.join(str(run.seed) for run in runs)}"
        text = (
            f"{all_.rounds:,} rounds of {len(self.rows)} kinds in {minutes:.1f} minutes on {servers} ({seeds}): "
            f"{all_.messages:,} messages, {all_.lost} lost, {all_.unexpected} unexpected, "
            f"{all_.broken} rounds with a broken invariant"
        )
        text += f", {all_.vain} that showed nothing" if all_.vain else ""
        return text + ("; stopped by a signal" if any(run.stopped for run in runs) else "")

    # -- in a file

    def json(self) -> str:
        """A document with "schema": 1."""
        rows = [vars(row) | {"extra": dict(row.extra)} for row in self.rows.values()]
        runs = [vars(run) for run in self.runs]
        return json.dumps({"schema": SCHEMA} | vars(self) | {"rows": rows, "runs": runs}, indent=1)

    @classmethod
    def of_json(cls, text: str) -> Results:
        """What ``json`` wrote. ValueError if it is something else."""
        document: Any = json.loads(text)
        if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
            raise ValueError(f"no results of scripts/faults --json with schema {SCHEMA}")
        rows = [Row(**row | {"extra": Counter(row["extra"])}) for row in document.pop("rows")]
        runs = [Run(**run) for run in document.pop("runs")]
        return cls(runs, {row.fault: row for row in rows}, **document)


def _columns(lines: Iterable[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
