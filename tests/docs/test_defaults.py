"""What the documents say about the code is what the code says. Run as a program: print the table of defaults, or
with ``settings`` that of settings."""

from __future__ import annotations

import re
import sys

import yaml

from reliq import Settings, settings
from reliq.defaults import TABLE, Default
from tests.docs.documents import ROOT, everything

TEXT = everything()


def shown(default: Default) -> str:
    """A value with its unit, as people write it."""
    value, unit = default.value, default.unit
    if unit == "bytes" and value % 1024 == 0:
        value, unit = (value // 1024, "KiB") if value % 1024**2 else (value // 1024**2, "MiB")
    return f"{value:,.15g} {unit}".strip()


def table() -> str:
    """The documents' table of defaults."""
    rows = [f"| {d.name} | {shown(d)} | {d.reason} |" for d in TABLE]
    return "\n".join(["| default | value | why |", "|---|---|---|", *rows])


def test_table_of_defaults() -> None:
    """It is the one in reliq/defaults.py."""
    assert table() in TEXT, f"the table of defaults should be:\n\n{table()}\n"


def as_written(value: object) -> str:
    """A value as somebody writes it into a file; times with their unit."""
    if value is None:
        return ""
    return f"{value:g} s" if isinstance(value, float) else str(value).lower()


def settings_table() -> str:
    """The documents' table of settings."""
    rows = [f"| `{row.name}` | {as_written(row.default)} | {row.about} |" for row in settings.TABLE.values()]
    return "\n".join(["| setting | default | what |", "|---|---|---|", *rows])


def test_table_of_settings() -> None:
    """It is the one in reliq/settings."""
    assert settings_table() in TEXT, f"the table of settings should be:\n\n{settings_table()}\n"


def test_example_of_yaml() -> None:
    """What is shown is read; only the file of the password is not here."""
    said = [yaml.safe_load(block) for block in re.findall("```yaml\n(.*?)```", TEXT, re.DOTALL)]
    [record] = [each for each in said if isinstance(each, dict) and "pool_size" in each]
    assert record.pop("password_file")
    found = Settings.of(record)
    assert (found.url, found.pool_size) == ("rediss://shop@redis.example.org:6380/0", 8)


def test_named_files_exist() -> None:
    """Every file that a document names is there: those of the tests, of the scripts and of the code."""
    named = re.findall(r"\b(?:tests|scripts|reliq)/[\w/]+(?:\.\w+)?", TEXT)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


if __name__ == "__main__":
    print(settings_table() if sys.argv[1:] == ["settings"] else table())
