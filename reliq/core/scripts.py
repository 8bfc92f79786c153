"""The Lua scripts, loaded once from the files beside them; each file opens with what it guarantees."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

_FOLDER = files("reliq.core") / "lua"


class Script(NamedTuple):
    """A Lua script and the SHA-1 under which Redis caches it."""

    name: str
    source: str
    sha: str

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"


def load(name: str, *, after: str | None = None) -> Script:
    """Read ``lua/<name>.lua``, put behind the shared functions of ``lua/<after>.lua`` if it needs them."""
    parts = [(_FOLDER / f"{part}.lua").read_text("utf-8") for part in (after, name) if part]
    source = "\n".join(parts)
    return Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())


put = load("put")
trip = load("trip", after="envelope")
leave = load("leave")
renew = load("renew")
expired = load("expired")
reap = load("reap", after="envelope")
sizes = load("sizes")
sweep_producers = load("sweep_producers")
page = load("page")
revive = load("revive", after="envelope")
discard = load("discard")
restore = load("restore")
