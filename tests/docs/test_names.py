"""The README's table of the names that others have: each row names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_row_names_tests_that_exist() -> None:
    """A file's name without a folder is in that of the one before."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## By the names that others have\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 30
    for row in rows:
        *_, shown_by, _ = row.split("|")
        folder, named = Path(), re.findall(r"`([^`]+)`", shown_by)
        assert named, row
        for name in named:
            path = Path(name) if "/" in name else folder / name
            folder = path.parent
            assert (ROOT / path).exists(), f"{path} in {row}"
