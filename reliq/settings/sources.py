"""Where settings are said: a mapping and the environment, and which of them goes first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from reliq.errors import ConfigError
from reliq.settings.place import PLACE, SECRET, TLS, USER, WHERE, has_user, is_tls
from reliq.settings.setting import Setting, what

_VARIABLE: Final = "RELIQ_"
#: How much a name has to be like one of ours to be told: of a variable more, as others have theirs too.
_NEAR, _VERY_NEAR = 0.6, 0.75
_HIDDEN: Final = {each.name for each in PLACE} - USER - TLS.keys()

Table = Mapping[str, Setting]


def together(said: Mapping[str, Any], environ: Mapping[str, str], table: Table) -> dict[str, Any]:
    """What both say, checked each alone; ``said`` goes first. ConfigError says what is wrong."""
    own = _mapping(said, table)
    return {**_variables(_beneath(own, _texts(environ, table)), table), **own}


def _mapping(said: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """None stands for what is not said."""
    if not isinstance(said, Mapping):
        raise ConfigError(f"settings are {what(said)}: give a mapping, such as {{'host': 'localhost'}}")
    for name, value in said.items():
        if name not in table:
            raise ConfigError(_unknown(name, value, table))
    found = {k: table[k].check(value, f"setting {k!r}") for k, value in said.items() if value is not None}
    if found.keys() >= SECRET:
        raise ConfigError("settings 'password' and 'password_file' say the same: leave one of them out")
    if USER & found.keys() and has_user(found):
        raise ConfigError(
            f"setting {min(USER & found.keys())!r} is in the url too: leave it out in one of the two"
        )
    return _with_password(found, "setting 'password_file'")


def _unknown(name: object, value: object, table: Table) -> str:
    if not isinstance(name, str):
        return f"settings have a key that is {what(name)}: write keys as texts, such as 'host'"
    near = _nearest(name.casefold(), tuple(table), _NEAR)
    advice = f"did you mean {near!r}?" if near else f"there are {', '.join(table)}"
    if isinstance(value, Mapping):
        advice = f"give what stands below it alone ({advice})"
    return f"there is no setting {name[:40]!r}: {advice}"


@lru_cache  # others' variables stay the same, and this takes long
def _nearest(name: str, names: tuple[str, ...], enough: float) -> str:
    from difflib import get_close_matches  # most programs need it never

    return "".join(get_close_matches(name, names, 1, enough))


def _with_password(found: dict[str, Any], called: str) -> dict[str, Any]:
    """With the password that its file holds, if one is named."""
    path = found.pop("password_file", None)
    if path is None:
        return found
    try:
        secret = Path(path).read_text("utf-8").strip("\r\n")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is no text"
        raise ConfigError(
            f"{called} names {path[:200]!r}, which cannot be read ({reason}): correct the path, or its rights"
        ) from None
    if not secret:
        raise ConfigError(f"{called} names {path[:200]!r}, which is empty: write the password into it")
    return {**found, "password": secret}


def _texts(environ: Mapping[str, str], table: Table) -> dict[str, str]:
    """What variables of ours say; an empty one says nothing. One that is nearly ours is a slip."""
    found = {}
    for variable in environ:
        if not variable.startswith(_VARIABLE) or not (text := environ[variable]):
            continue
        name = variable.removeprefix(_VARIABLE).lower()
        if name in table:
            found[name] = text
        elif near := _nearest(name, tuple(table), _VERY_NEAR):
            raise ConfigError(f"there is no variable {variable[:60]}: did you mean {_VARIABLE}{near.upper()}?")
    if "url" not in found:
        return found
    url = {"url": found["url"]}
    return {**_beneath(url, found), **url}


def _beneath(own: Mapping[str, Any], below: Mapping[str, str]) -> dict[str, str]:
    """What still counts of what is said further away."""
    hidden = set(own)
    if WHERE & own.keys():
        hidden |= _HIDDEN if is_tls(own) else _HIDDEN | TLS.keys()
    if SECRET & own.keys():
        hidden |= SECRET
    if has_user(own):
        hidden |= USER
    return {name: text for name, text in below.items() if name not in hidden}


def _variables(texts: Mapping[str, str], table: Table) -> dict[str, Any]:
    if texts.keys() >= SECRET:
        raise ConfigError("RELIQ_PASSWORD and RELIQ_PASSWORD_FILE say the same: unset one of them")
    found = {
        name: table[name].check(table[name].read(text), f"{_VARIABLE}{name.upper()}")
        for name, text in texts.items()
    }
    return _with_password(found, "RELIQ_PASSWORD_FILE")
