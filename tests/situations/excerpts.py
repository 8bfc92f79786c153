"""Excerpts of output in docs/situations.md, and what it was really like.

An excerpt stands behind a line `<!-- situation: NAME -->`, in a block of text. A test that has brought the
situation about gives its output to ``check``, which compares the two, without what differs from one time to the
next. With UPDATE_EXCERPTS=1 (`python -m tests.situations`) it writes there what was seen.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.docs.documents import DOCS
from tests.situations.shop import Result

DOCUMENT: Final = DOCS / "situations.md"
UPDATES: Final = bool(os.environ.get("UPDATE_EXCERPTS"))
#: What differs, and how it is shown in a comparison.
_MASKS: Final = (
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"\b[\w.]+-\d+-[0-9a-f]{8}\b", "CONSUMER"),
    (r"\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d(\.\d+)?", "TIME"),
    (r"\b[\d,.]+ (ms|s|min|h|d)\b", "DURATION"),
    (r"\d[\d,.]*", "N"),
    (r"\s+", " "),
)


def masked(text: str) -> str:
    """Without ids, names of consumers, times and numbers; however the lines are broken."""
    for pattern, name in _MASKS:
        text = re.sub(pattern, name, text)
    return text.strip()


def presentable(text: str, folder: Path) -> str:
    """As on anybody's machine: its name, its folders and its port are nobody's business."""
    text = text.replace(str(folder), "/srv/shop")
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "web1", text)
    text = re.sub(r"sentinels 127\.0\.0\.1:\d+", "sentinels sentinel1:26379", text)
    text = re.sub(r"\b127\.0\.0\.1:\d+", "redis1:6379", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def between(out: str, first: str, last: str) -> str:
    """The lines from the first one that has ``first`` in it to the next that has ``last``."""
    lines = out.splitlines()
    start = next(n for n, line in enumerate(lines) if first in line)
    end = next(n for n, line in enumerate(lines) if n >= start and last in line)
    return "\n".join(lines[start : end + 1])


def check(name: str, seen: Result, folder: Path, parts: Sequence[str] = ()) -> None:
    """Compare the excerpt of this name with what was seen: the whole output, or parts of it."""
    text = presentable("\n".join([f"$ {seen.command}", *(parts or [seen.out])]), folder)
    document = DOCUMENT.read_text("utf-8")
    block = re.compile(rf"(<!-- situation: {re.escape(name)} -->\n\n?```text\n)(.*?)(\n```\n)", re.DOTALL)
    shown = block.search(document)
    assert shown, f"docs/situations.md has no block of text behind <!-- situation: {name} -->"
    if UPDATES:
        if masked(shown[2]) != masked(text):
            DOCUMENT.write_text(block.sub(lambda match: match[1] + text + match[3], document), "utf-8")
        return
    assert masked(shown[2]) == masked(text), f"run python -m tests.situations, or mend what is wrong:\n{text}"
