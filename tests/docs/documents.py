"""The documents of the project: README.md, and those in docs/ that it leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
DOCUMENTS: Final = [README, *sorted(DOCS.rglob("*.md"))]


def name(path: Path) -> str:
    """As it is called from the top of the project: docs/results.md."""
    return path.relative_to(ROOT).as_posix()


def everything() -> str:
    """The text of all of them."""
    return "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
