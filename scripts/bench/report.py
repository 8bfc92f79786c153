"""What came out: a table for people, JSON for programs, and what changed since an older JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench.bars import Bar, Figure

WORDS = {True: "met", False: "missed", None: "not measured"}
Results = Sequence[tuple[Bar, Figure]]


def row(bar: Bar, figure: Figure) -> dict[str, Any]:
    """One bar as it stands in the JSON; ``met`` is null with a ``why`` if it was not measured."""
    made: dict[str, Any] = {
        "name": bar.name,
        "what": bar.what,
        "bar": bar.wanted,
        "unit": bar.unit,
        "figure": figure.median,
        "met": figure.met(bar),
        "rounds": figure.rounds,
        "beside": {name: median(values) for name, values in figure.beside.items()},
    }
    for extra in ("note", "instead", "why"):
        if text := getattr(figure, extra):
            made[extra] = text
    return made


def document(
    machine: dict[str, Any], run: dict[str, Any], results: Results, curves: dict[str, Any]
) -> dict[str, Any]:
    """All of a run."""
    return {
        "version": 1,
        "machine": machine,
        "run": run,
        "bars": [row(bar, figure) for bar, figure in results],
        "curves": curves,
    }


def table(results: Results) -> str:
    """Each bar with its figure (median of the rounds), spread, verdict, and the absolute medians it comes from."""
    lines = [("bar", "wanted", "figure", "spread", "", "medians")]
    for bar, figure in results:
        middle = figure.median
        if middle is None:
            lines.append((bar.name, bar.wanted, "-", "", WORDS[None], figure.why))
            continue
        spread = f"{_short(min(figure.rounds))} - {_short(max(figure.rounds))}" if len(figure.rounds) > 1 else ""
        beside = [f"{name} {_short(median(values))}" for name, values in figure.beside.items()]
        notes = [text for text in (figure.note,) if text]
        shown = bar.show(middle)
        lines.append((bar.name, bar.wanted, shown, spread, WORDS[figure.met(bar)], ", ".join([*beside, *notes])))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    padded = (
        "  ".join(text.ljust(width) for text, width in zip(line, [*widths, 0], strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def markdown(results: Results) -> str:
    """The same as a table of a document."""
    lines = ["| bar | wanted | figure | of the rounds | |", "|---|---|---|---|---|"]
    for bar, figure in results:
        middle = figure.median
        shown = "-" if middle is None else bar.show(middle)
        spread = f"{_short(min(figure.rounds))} to {_short(max(figure.rounds))}" if len(figure.rounds) > 1 else ""
        verdict = WORDS[figure.met(bar)] + (f" ({figure.instead})" if figure.instead else "")
        lines.append(f"| {bar.what} | {bar.wanted} | {shown} | {spread} | {verdict} |")
    return "\n".join(lines)


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def heading(machine: dict[str, Any], awake: bool, rounds: int) -> str:
    """Where and how it was measured."""
    held = "held at 0" if awake else "NOT held (not allowed here): cores may halt when idle, and waits are longer"
    load = machine["load"][0] if machine.get("load") else "?"
    return (
        f"{machine['cores']} cores ({machine['cpu'] or platform.machine()}), Python {machine['python']}, "
        f"{machine['redis']}, redis-py {machine['redis-py']}, hiredis {machine['hiredis']}, "
        f"reliq {machine['reliq']}\n"
        f"load average {load} at the start; /dev/cpu_dma_latency {held}; {rounds} rounds, medians"
    )


def summary(results: Results) -> str:
    """How many are met."""
    found = [figure.met(bar) for bar, figure in results]
    return ", ".join(f"{found.count(verdict)} {word}" for verdict, word in WORDS.items())


def compared(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What changed, bar by bar; within the spread of both runs it says so."""
    before = {entry["name"]: entry for entry in old["bars"]}
    lines = [f"since {old['machine'].get('reliq', '?')} (quick: {old['run'].get('quick')}):"]
    for entry in new["bars"]:
        was = before.get(entry["name"])
        if was and was["figure"] and entry["figure"] is not None:
            lines.append(f"  {entry['name']:16} {_change(was, entry)}")
    return "\n".join(lines)


def _change(was: dict[str, Any], entry: dict[str, Any]) -> str:
    change = entry["figure"] / was["figure"] - 1
    apart = min(entry["rounds"]) > max(was["rounds"]) or max(entry["rounds"]) < min(was["rounds"])
    better = (change > 0) == entry["bar"].startswith(">=")
    word = ("better" if better else "worse") if apart else "within the spread"
    beside = [
        f"{name} {_short(was['beside'][name])} -> {_short(value)}"
        for name, value in entry["beside"].items()
        if name in was.get("beside", {})
    ]
    figures = f"{_short(was['figure'])} -> {_short(entry['figure'])} {entry['unit']}"
    return f"{figures:26} {change:+7.1%}  {word:18} {', '.join(beside)}".rstrip()


def load(path: Path) -> dict[str, Any]:
    """A JSON of an earlier run; SystemExit with 2 if it is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if found["version"] == 1 and found["bars"]:
            return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path}: {error}")
    print(f"{path} is no JSON of this benchmark")
    raise SystemExit(2)
