"""One setting: its name, what its value has to look like, and how somebody is told that it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from reliq.errors import ConfigError, given

#: Seconds, or a number of things: more is a slip, and more than some system call takes.
MOST: Final = 1e9
#: What is wrong with these texts, those say who read them: they know better.
_TOLD_LATER: Final = frozenset({"url", "prefix"})
_BOOLS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class Setting(NamedTuple):
    """A key of a mapping; its variable is RELIQ_ and the key in capitals. ``kind``: bool, int, float (seconds),
    str, or list (of str). Numbers are from ``least`` to ``most``."""

    name: str
    kind: type
    about: str
    default: Any = None
    least: float = 0
    most: float = MOST

    @property
    def wanted(self) -> str:
        """What to write."""
        if self.kind is bool:
            return "write true or false, without quotes"
        if self.kind is str:
            return "write a text, in quotes"
        if self.kind is list:
            return "write a list of texts, such as redis1:6379"
        what = "a whole number" if self.kind is int else "a number of seconds"
        return f"write {what} from {self.least:g} to {self.most:,.15g}, without quotes"

    def check(self, value: object, called: str) -> Any:
        """The value as it is used; ConfigError if it is of the wrong kind. What may be a password is not shown."""
        if self.kind is list and isinstance(value, str):
            value = value.split(",")
        if not self._fits(value):
            shown = "" if self.kind in (str, list) else _shown(value)
            raise ConfigError(f"{called} is {shown or what(value)}: {self.wanted}")
        return float(value) if self.kind is float else value  # type: ignore[arg-type]  # it is a number

    def _fits(self, value: object) -> bool:
        if self.kind is bool:
            return isinstance(value, bool)
        if self.kind is str:
            return isinstance(value, str) and (self.name in _TOLD_LATER or _can_be_sent(value))
        if self.kind is list:
            return isinstance(value, list | tuple) and any(value) and all(isinstance(each, str) for each in value)
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        return self.least <= value <= self.most

    def read(self, text: str) -> object:
        """What a text means, where all is text: in a variable, or in a URL. ``check`` has the last word."""
        if self.kind is bool:
            return _BOOLS.get(text.lower(), text)
        if self.kind is int and re.fullmatch(r"-?[0-9]{1,15}", text):
            return int(text)
        if self.kind is float and re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{0,15})?", text):
            return float(text)
        return text


def _can_be_sent(text: str) -> bool:
    try:
        return text.encode() != b"" and "\0" not in text
    except UnicodeEncodeError:
        return False


def _shown(value: object) -> str:
    """A value of which people can see what is wrong; nothing if it may be a secret, or is long."""
    if isinstance(value, str):
        return f"{value!r}, a text" if re.fullmatch(r"[\w.: +-]{1,30}", value) else ""
    if isinstance(value, timedelta):
        return given(value)
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**15):
        return repr(value)
    return ""


def what(value: object) -> str:
    """Of which kind a value is, in words."""
    if isinstance(value, str):
        return "a text that does not belong there" if value else "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"
