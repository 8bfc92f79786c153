"""``scripts/bench/run``: measure, show, write, judge."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import ModuleType

from scripts.bench import (
    bodies,
    crowd,
    depth,
    drain,
    idle,
    latency,
    later,
    machine,
    memory,
    peers,
    plots,
    processes,
    put,
    reap,
    report,
    slow,
    start,
)
from scripts.bench.bars import Bar, Figure
from scripts.bench.lab import Lab

#: In the order of the table.
GROUPS: tuple[ModuleType, ...] = (
    put, drain, peers, processes, crowd, latency, idle, memory, depth, reap, later, bodies, slow, start,
)  # fmt: skip


def main() -> int:
    """Exit status: 0 if every bar that was asked for is met, else 1."""
    options = _options()
    old = report.load(options.compare) if options.compare else None
    lab = Lab(
        rounds=options.rounds or (2 if options.quick else 5),
        quick=options.quick,
        plots=options.plots is not None,
        peers=options.peers,
    )
    with machine.awake() as awake:
        about = machine.describe()
        print(report.heading(about, awake, lab.rounds), flush=True)
        results = [result for group in GROUPS for result in _measure(group, lab, options.only)]
    run = {"quick": lab.quick, "rounds": lab.rounds, "cpu_dma_latency_held": awake}
    made = report.document(about, run, results, lab.curves)
    judged = [(bar, figure) for bar, figure in results if not options.only or _chosen(bar, options.only)]
    print(report.markdown(judged) if options.markdown else report.table(judged))
    print(report.summary(judged) + (" (--quick: too short to judge by)" if lab.quick else ""))
    if old:
        print(report.compared(old, made))
    if options.json:
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    if options.plots:
        print(plots.draw(lab.curves, options.plots))
    return 0 if all(figure.met(bar) for bar, figure in judged) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/run", description=__doc__)
    names = [bar.name for group in GROUPS for bar in group.BARS]
    parser.add_argument("--rounds", type=int, help="how often each is measured in turn (5, with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="very short: shows that it runs, not how fast it is")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME",
        help=f"measure this bar (and those measured with it), judge by it alone. Any of: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument(
        "--peers", action="store_true", help="also Dramatiq, if it is installed in the environment"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", action="store_true", help="show the table as Markdown")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="show what changed since that run")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="measure the curves too, and draw them as SVG"
    )
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def _chosen(bar: Bar, only: list[str]) -> bool:
    return bar.name in only


def _measure(group: ModuleType, lab: Lab, only: list[str] | None) -> list[tuple[Bar, Figure]]:
    """The figures of a group, in the order of its bars; one that fails is not measured, and says why."""
    if only and not any(_chosen(bar, only) for bar in group.BARS):
        return [(bar, Figure(why="left out by --only")) for bar in group.BARS]
    started, name = time.monotonic(), group.__name__.rpartition(".")[2]
    try:
        found: dict[str, Figure] = group.measure(lab)
    except Exception as error:  # noqa: BLE001 - the other groups are worth measuring all the same
        print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
        found = {bar.name: Figure(why=f"{type(error).__name__}: {error}") for bar in group.BARS}
    print(f"measured {name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return [(bar, found[bar.name]) for bar in group.BARS]


if __name__ == "__main__":
    sys.exit(main())
