"""Curves as SVG, if matplotlib is installed (it is no dependency of anything else)."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.bench.lab import Curves


def draw(curves: Curves, folder: Path) -> str:
    """One SVG per curve; returns a line that says what was done."""
    try:
        import matplotlib
    except ImportError:
        return "no plots: matplotlib is not installed in this environment (the points are in the JSON)"
    matplotlib.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for name, curve in curves.items():
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        for series, points in curve["series"].items():
            axes.plot(*zip(*points, strict=True), marker="." if len(points) > 20 else "o", label=series)
        widest = [x for points in curve["series"].values() for x, _ in points]
        if len(widest) > 2 and min(widest) > 0 and max(widest) >= 50 * min(widest):
            axes.set_xscale("log")
        axes.set(title=name, xlabel=curve["x"], ylabel=curve["y"], ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / (re.sub(r"\W+", "-", name) + ".svg"))
        pyplot.close(figure)
    return f"{len(curves)} plots in {folder}"
