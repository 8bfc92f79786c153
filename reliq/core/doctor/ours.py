"""The scripts of this package, as a server sees them: what they call, and how its slow log names them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.resources import files
from pkgutil import walk_packages
from typing import Final

import reliq.core
from reliq.core import scripts

_CALL: Final = re.compile(r"redis\.p?call\('([A-Z]+)'")
#: What goes by pcall may fail: the ledger and the counters.
_MUST: Final = re.compile(r"redis\.call\('([A-Z]+)'")
AT_WORK: Final = ("put", "register", "trip", "leave", "renew", "expired", "reap")
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


@cache
def _loads() -> Sequence[scripts.Script]:
    """Each script in the form in which it runs: every module of the core loads its own."""
    for module in walk_packages(reliq.core.__path__, "reliq.core."):
        import_module(module.name)
    return tuple(scripts.LOADED)


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
