"""Conditions that several commands take: what a body holds, and points in time."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from reliq.core.kinds import in_json
from reliq.errors import ConfigError

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\Z")
_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_MISSING: Final = object()


@dataclass(frozen=True)
class Field:
    """A condition on a body: what stands at this path is this value, or has this text."""

    path: tuple[str, ...]
    text: str

    @classmethod
    def read(cls, given: str, option: str = "--field") -> Field:
        """``user.id=17``; ConfigError if it is none."""
        path, equals, value = given.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"{option} {given!r} is no condition; write it as in {option} user.id=17")
        return cls(tuple(path.split(".")), value)

    def holds(self, body: Any) -> bool:
        found = body
        for name in self.path:
            found = _part(found, name)
        if isinstance(found, str):
            return found == self.text
        if isinstance(found, date | time | UUID | Decimal):
            return str(in_json(found)) == self.text
        try:
            return bool(found is not _MISSING and found == json.loads(self.text))
        except ValueError:
            return False


def _part(value: Any, name: str) -> Any:
    """What a map has under a name, or a list at a place."""
    if isinstance(value, dict):
        return value.get(name, value.get(int(name), _MISSING) if name.isdigit() else _MISSING)
    if isinstance(value, list) and name.isdigit() and int(name) < len(value):
        return value[int(name)]
    return _MISSING


def when(given: str, now: int, option: str = "--since") -> int:
    """A point in time, Unix ms: so long before ``now``, or a time with a zone; ConfigError for anything else."""
    if match := _AGO.match(given.strip()):
        return now - round(float(match[1]) * _MS[match[2]])
    try:
        at = datetime.fromisoformat(given[:-1] + "+00:00" if given.endswith(("Z", "z")) else given)
    except ValueError:
        raise ConfigError(f"{option} {given!r} is no time; write 90s, 15m, 2h, 3d or 2030-01-31T08:00Z") from None
    if at.tzinfo is None:
        raise ConfigError(f"{option} {given!r} has no zone; add one, as in {given}Z or {given}+01:00")
    return round(at.timestamp() * 1000)


def moment(given: str | None) -> datetime | None:
    """An ISO 8601 time with a zone, as --at takes it; ConfigError for anything else."""
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given[:-1] + "+00:00" if given.endswith(("Z", "z")) else given)
    except ValueError:
        raise ConfigError(f"--at {given!r} is no ISO 8601 time; write 2030-01-31T08:00:00+01:00") from None
    if at.tzinfo is None:
        raise ConfigError(f"--at {given!r} has no zone; add one, as in {given}Z or {given}+01:00")
    return at


def duration(given: str, option: str) -> float:
    """A time span in seconds; ConfigError for anything else."""
    match = _AGO.match(given.strip())
    if match is None:
        raise ConfigError(f"{option} {given!r} is no time span; write 90s, 15m, 2h or 3d")
    return float(match[1]) * _MS[match[2]] / 1000


def seconds(given: str) -> float:
    """The type of an option: a number of seconds, or a time span."""
    try:
        return float(given)
    except ValueError:
        match = _AGO.match(given.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{given!r} is no time span; write seconds, or 90s, 15m, 2h or 3d")
    return float(match[1]) * _MS[match[2]] / 1000


def cause_name(given: str) -> str:
    """A cause as it is compared: in any case, and also as the reason that explain gives."""
    return given.upper().removeprefix("DEAD_")
