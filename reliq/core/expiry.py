"""Until when a message is worth handling: a time in its meta, after which no attempt begins."""

from __future__ import annotations

from typing import Final

from reliq.core import envelope as env
from reliq.core.words import duration
from reliq.errors import DecodeError

#: The key in the meta: Unix ms.
KEY: Final = "d"
#: The cause of a dead letter that nobody began in time.
EXPIRED: Final = "EXPIRED"


def deadline_of(meta: env.Meta) -> int | None:
    """When the message expires, Unix ms; None: it does not."""
    found = meta.get(KEY)
    return found if type(found) is int else None


def check(meta: env.Meta, server_ms: int) -> None:
    """Raise what dead-letters a message that has expired by then."""
    deadline = deadline_of(meta)
    if deadline is not None and server_ms > deadline:
        raise DecodeError(EXPIRED, f"it expired {duration(server_ms - deadline)} before a consumer claimed it")
