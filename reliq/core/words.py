"""How durations, counts and times are written in sentences."""

from __future__ import annotations


def duration(ms: float) -> str:
    """``31 ms``, ``4.2 s``, ``12 s``, ``3 min``, ``2 h``, ``5 d``"""
    seconds = ms / 1000
    if ms < 1000:
        return f"{ms:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def number(n: int, noun: str) -> str:
    """``1 message``, ``1,234 messages``"""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
