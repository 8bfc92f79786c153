"""The Lua scripts, loaded once from the files beside them; each file opens with what it guarantees."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from reliq.core.shape import ANY, FLAG, Shape, checker

if TYPE_CHECKING:
    from importlib.abc import ResourceLoader

#: Reads out of a zip too, as importlib.resources does, which takes longer to import than all of them to read.
_READ: Final[Callable[[str], bytes]] = cast("ResourceLoader", __spec__.loader).get_data
_FOLDER: Final = Path(__file__).with_name("lua")


class Script(NamedTuple):
    """A Lua script, the SHA-1 under which Redis caches it, and whether something can be a reply of it."""

    name: str
    source: str
    sha: str
    fits: Callable[[Any], bool] = checker(ANY)

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"


LOADED: Final[list[Script]] = []
"""All that were loaded so far, each in the form in which it runs."""


def load(name: str, *, after: str | tuple[str, ...] = (), shape: Shape = ANY) -> Script:
    """Read ``lua/<name>.lua``, put behind the shared functions of ``lua/<after>.lua`` if it needs them. Its
    replies have this shape."""
    shared = (after,) if isinstance(after, str) else after
    parts = [_READ(str(_FOLDER / f"{part}.lua")).decode() for part in (*shared, name)]
    source = "\n".join(parts)
    script = Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest(), checker(shape))
    LOADED.append(script)
    return script


_TRIPPED: Final = frozenset({b"ok", b"again", b"stale", b"dead", b"held", b"spell"})
_REAPED: Final = frozenset({b"alive", b"waiting", b"adopted", b"forgotten", b"reaped"})

put = load("put", shape=[frozenset({-2, -1, 0, 1}), (frozenset({b"kept", b"replaced"}), bytes)])
trip = load(
    "trip",
    after=("envelope", "lanes", "shares", "groups", "admit", "marks", "tell"),
    shape=(_TRIPPED, int, bytes, (int, ...), FLAG, int, int, int, int, (bytes, ...), int, int, bytes, ...),
)
begin = load("begin", shape=(FLAG, ...))
register = load("register", shape=(int, int))
leave = load("leave", shape=FLAG)
renew = load("renew", shape=FLAG)
expired = load("expired", shape=(int, bytes, ...))
reap = load(
    "reap", after=("envelope", "lanes", "shares", "unique", "marks", "tell"), shape=(_REAPED, int, int, FLAG)
)
sizes = load("sizes", shape=(int, int, int, int, int))
sweep_producers = load("sweep_producers")
page = load("page", shape=(FLAG, bytes, ...))
revive = load("revive", after="envelope", shape=(FLAG, ...))
discard = load("discard", shape=(FLAG, ...))
restore = load("restore", shape=(FLAG, ...))
