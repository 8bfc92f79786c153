"""How commands write things for people, and for programs."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import sys
from collections.abc import Iterable
from typing import Any, Final

SCHEMA: Final = 1
"""Of all JSON that commands print; a change that breaks a reader counts it up."""


def print_anything() -> None:
    """Let a terminal that cannot show a character show its code instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):
                stream.reconfigure(errors="backslashreplace")


def print_json(record: dict[str, Any]) -> None:
    """One document, with the schema in front."""
    print(json.dumps({"schema": SCHEMA, **record}, ensure_ascii=False, allow_nan=False))


def safe(text: str) -> str:
    """Without anything that a terminal would obey: what comes from Redis may be anybody's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str, limit: int) -> str:
    """At most ``limit`` characters, with a mark where something is missing."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


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


def near(word: str, known: Iterable[str]) -> str:
    """``(did you mean 'status'?)`` with a space before it, or nothing, for an error message."""
    found = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""
