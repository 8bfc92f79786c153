"""What the README says about the code is what the code says. Run as a program: print the table of defaults."""

from __future__ import annotations

import re
from pathlib import Path

from reliq.defaults import TABLE, Default

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def shown(default: Default) -> str:
    """A value with its unit, as people write it."""
    value, unit = default.value, default.unit
    if unit == "bytes" and value % 1024 == 0:
        value, unit = (value // 1024, "KiB") if value % 1024**2 else (value // 1024**2, "MiB")
    return f"{value:,.15g} {unit}".strip()


def table() -> str:
    """The README's table of defaults."""
    rows = [f"| {d.name} | {shown(d)} | {d.reason} |" for d in TABLE]
    return "\n".join(["| default | value | why |", "|---|---|---|", *rows])


def test_table_of_defaults() -> None:
    """The README's table is the one in reliq/defaults.py."""
    assert table() in README, f"the table in README.md should be:\n\n{table()}\n"


def test_named_files_exist() -> None:
    """Every file that the README names is there: those of the tests, of the scripts and of the code."""
    named = re.findall(r"\b(?:tests|scripts|reliq)/[\w/]+(?:\.\w+)?", README)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


if __name__ == "__main__":
    print(table())
