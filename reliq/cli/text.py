"""How commands write things for people, and for programs; durations and counts as the core does."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import sys
from collections.abc import Iterable
from typing import Any, Final

from reliq.core.words import duration as duration
from reliq.core.words import number as number

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


def near(word: str, known: Iterable[str]) -> str:
    """``(did you mean 'status'?)`` with a space before it, or nothing, for an error message."""
    found = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""
