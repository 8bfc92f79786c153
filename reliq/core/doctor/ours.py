"""The scripts of this package, as a server sees them: what they call, and how its slow log names them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from reliq.core import scripts

_CALL: Final = re.compile(r"redis\.p?call\('([A-Z]+)'")
#: What goes by pcall may fail: the ledger and the counters.
_MUST: Final = re.compile(r"redis\.call\('([A-Z]+)'")
AT_WORK: Final = ("put", "trip", "leave", "renew", "expired", "reap")
"""The scripts of producers, workers and reapers; all others are of commands that look and repair."""
#: The slow log cuts a word after 128 characters and says how many there were.
_CUT: Final = re.compile(r"\.\.\. \(\d+ more bytes\)\Z")
#: A shorter beginning could be anybody's.
_TELLING: Final = 40


@cache
def _sources() -> Mapping[str, str]:
    """Every .lua file, by name; those that others are put behind among them."""
    folder = files("reliq.core") / "lua"
    return {
        path.name.removesuffix(".lua"): path.read_text("utf-8")
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        if path.name.endswith(".lua")
    }


def verbs() -> frozenset[str]:
    """All that our scripts call."""
    return frozenset(verb for source in _sources().values() for verb in _CALL.findall(source))


def verbs_at_work() -> frozenset[str]:
    """What scripts call, and cannot do without, whenever messages are put, handled and brought back."""
    found = (_MUST.findall(_sources()[name]) for name in ("envelope", *AT_WORK))
    return frozenset(verb for verbs in found for verb in verbs)


def _loads() -> Iterator[scripts.Script]:
    """Each script, in each form in which it can be loaded: alone, or behind shared functions."""
    shared = [name for name, source in _sources().items() if "\n-- KEYS " not in source]
    for name in _sources().keys() - set(shared):
        yield scripts.load(name)
        yield from (scripts.load(name, after=before) for before in shared)


@cache
def _by_sha() -> Mapping[str, str]:
    return {script.sha: script.name for script in _loads()}


def name_of(words: Sequence[str]) -> str:
    """The script of ours that a call in the slow log ran: by its digest, or by how its source begins, which can be
    the same for several. Empty: it is none of ours."""
    if len(words) < 2 or words[0].upper() not in ("EVALSHA", "EVAL"):
        return ""
    if words[0].upper() == "EVALSHA":
        return _by_sha().get(words[1].lower(), "")
    start = _CUT.sub("", words[1])
    found = {script.name for script in _loads() if len(start) > _TELLING and script.source.startswith(start)}
    return found.pop() if len(found) == 1 else "a script" if found else ""
