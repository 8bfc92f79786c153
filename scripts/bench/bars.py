"""What a bar is, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple


class Bar(NamedTuple):
    """One row of the table. ``least``: the figure has to be at least ``limit``; otherwise at most."""

    name: str
    what: str
    limit: float
    unit: str = "x"
    least: bool = True

    @property
    def wanted(self) -> str:
        """The bar as text: ``>= 1.2 x``."""
        return f"{'>=' if self.least else '<='} {self.show(self.limit)}"

    def show(self, figure: float) -> str:
        """A figure of this bar with its unit."""
        digits = 0 if abs(figure) >= 1000 else 1 if abs(figure) >= 100 else 2 if abs(figure) >= 1 else 3
        text = f"{figure:,.{digits}f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {self.unit}".rstrip()

    def holds(self, figure: float) -> bool:
        """Whether this figure meets the bar."""
        return figure >= self.limit if self.least else figure <= self.limit


@dataclass
class Figure:
    """What was measured: one figure per round, and beside it the absolute figures that it comes from.

    ``instead``: why the bar is met although its figure is not, where the bar names such a reason.
    ``why``: why it was not measured; then there are no rounds.
    """

    rounds: list[float] = field(default_factory=list)
    beside: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""
    instead: str = ""
    why: str = ""

    @property
    def median(self) -> float | None:
        """The figure; None if it was not measured."""
        return median(self.rounds) if self.rounds else None

    def met(self, bar: Bar) -> bool | None:
        """Whether the bar is met; None if it was not measured."""
        figure = self.median
        return None if figure is None else bool(self.instead) or bar.holds(figure)


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Ours over theirs, round by round: what disturbs a machine for seconds disturbs both."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
