"""The table of the names that others have: each row names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.documents import DOCS, ROOT


def test_each_row_names_tests_that_exist() -> None:
    """A file's name without a folder is in that of the one before."""
    text = (DOCS / "names.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 30
    for row in rows:
        *_, shown_by, _ = row.split("|")
        folder, named = Path(), re.findall(r"`([^`]+)`", shown_by)
        assert named, row
        for name in named:
            path = Path(name) if "/" in name else folder / name
            folder = path.parent
            assert (ROOT / path).exists(), f"{path} in {row}"
