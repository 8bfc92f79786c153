"""The Lua scripts, loaded once from the files beside them; each file opens with what it guarantees."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple

from reliq.core.shape import ANY, FLAG, Shape

_FOLDER = files("reliq.core") / "lua"


class Script(NamedTuple):
    """A Lua script, the SHA-1 under which Redis caches it, and what its replies look like."""

    name: str
    source: str
    sha: str
    shape: Shape = ANY

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"


def load(name: str, *, after: str | None = None, shape: Shape = ANY) -> Script:
    """Read ``lua/<name>.lua``, put behind the shared functions of ``lua/<after>.lua`` if it needs them. Its
    replies have this shape."""
    parts = [(_FOLDER / f"{part}.lua").read_text("utf-8") for part in (after, name) if part]
    source = "\n".join(parts)
    return Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest(), shape)


_TRIPPED: Final = frozenset({b"ok", b"again", b"stale", b"dead"})
_REAPED: Final = frozenset({b"alive", b"waiting", b"adopted", b"forgotten", b"reaped"})

put = load("put", shape=FLAG)
trip = load(
    "trip",
    after="envelope",
    shape=(_TRIPPED, int, bytes, (int, ...), FLAG, FLAG, int, int, int, (bytes, ...), int, int, int, ...),
)
leave = load("leave", shape=FLAG)
renew = load("renew", shape=FLAG)
expired = load("expired", shape=(int, bytes, ...))
reap = load("reap", after="envelope", shape=(_REAPED, int, int, FLAG))
sizes = load("sizes", shape=(int, int, int, int, int))
sweep_producers = load("sweep_producers")
page = load("page", shape=(FLAG, bytes, ...))
revive = load("revive", after="envelope", shape=(FLAG, ...))
discard = load("discard", shape=(FLAG, ...))
restore = load("restore", shape=(FLAG, ...))
