"""The machine: what it is, and keeping its cores awake while we measure."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scripts.bench.lab import binary


@contextmanager
def awake() -> Iterator[bool]:
    """Hold /dev/cpu_dma_latency at 0; False where that is not allowed.

    On virtual machines a core that halts when it is idle makes every wait for another process slow, ours and
    those of what we compare with by different amounts.
    """
    try:
        handle = open("/dev/cpu_dma_latency", "wb", buffering=0)  # noqa: SIM115 - held while we measure
    except OSError:
        yield False
        return
    with handle:
        try:
            handle.write(struct.pack("i", 0))
        except OSError:
            yield False
            return
        yield True


def describe() -> dict[str, Any]:
    """What a reader of the figures has to know."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "redis": binary().name,
        "redis-py": _version("redis"),
        "hiredis": _version("hiredis"),
        "reliq": _commit(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "reliq") else "")
    except OSError:
        return version("reliq")
