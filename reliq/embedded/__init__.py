"""A private Redis for whoever has none yet: found, started, shared and stopped without a question.

How the processes of one user share it (each lock is a file in the data directory)::

    user process    flock, shared, on users.lock for as long as it lives (its forks hold it too)
    starter         flock, exclusive, on start.lock while it looks or starts
    keeper          flock, exclusive, on keeper.lock; parent of redis-server; waits for users.lock
    redis-server    POSIX lock on server.lock: the one process that may write the data

Locks, not pid files, say who is there: the kernel drops them whatever way a process ends, so nothing is
ever stale. When the keeper gets users.lock nobody is left: it stops the server and goes. The boot path is
`ensure` here, `start.bring_up`, `keeper.main`.
"""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

from reliq.errors import EmbeddedUnavailable
from reliq.settings import Settings

__all__ = ["ensure", "here_or_embedded", "url_or_embedded"]

_OFF = frozenset({"0", "false", "no", "off"})

# A counter and not a flag with a lock: next() is atomic, and no Python lock can be held over a fork.
_fallbacks = itertools.count()


def ensure(directory: Path | None = None) -> str:
    """Make sure that this user's private Redis runs, and return its URL (``unix:///.../redis.sock?db=0``).

    The server lives at least until this process ends, forks included. Calling again is cheap (about 1 ms) and
    is what to do when the connection is lost: it starts the server anew should somebody have killed it.

    `directory` holds the data; without it ``$RELIQ_DATA_DIR``, else ``$XDG_DATA_HOME/reliq``, else
    ``~/.local/share/reliq``. Blocks while the server starts: usually 0.1 s, 10 s at most, longer only
    while it loads its data or while an earlier server is still stopping.

    Raises EmbeddedUnavailable when there is no usable redis-server, the directory cannot be made private,
    or the server does not start.
    """
    if os.name != "posix":
        raise EmbeddedUnavailable("the embedded Redis needs Unix sockets and file locks: set RELIQ_URL instead")
    # Late, because fcntl exists on Unix only, and because whoever has a URL need not pay for the import.
    from reliq.embedded import place, start

    return start.bring_up(place.find(directory))


def url_or_embedded(url: str | None) -> str:
    """The Redis to use: `url` if given, else ``$RELIQ_URL``, else the embedded one.

    Falling back is logged once per process as a warning, because two containers that forget the URL would
    otherwise each talk to a Redis of their own and silently never see each other's messages.
    ``RELIQ_EMBEDDED=0`` turns the fallback into an error.

    Raises EmbeddedUnavailable when there is no URL and no embedded Redis.
    """
    return here_or_embedded(Settings.chosen(url, None)).url or ""


def here_or_embedded(settings: Settings) -> Settings:
    """These settings, at the Redis that they name, else at that of the environment (RELIQ_URL, RELIQ_HOST and the
    like), else at the embedded one, as ``url_or_embedded`` says."""
    if settings.url is not None:
        return settings.at(settings.url)
    if (named := Settings.from_env().url) is not None:
        return settings.at(named)
    if os.environ.get("RELIQ_EMBEDDED", "").strip().lower() in _OFF:
        raise EmbeddedUnavailable(
            "no Redis URL was given, RELIQ_URL is unset, and RELIQ_EMBEDDED=0 switches the embedded Redis "
            "off: pass url= or set RELIQ_URL"
        )
    url = ensure()
    if next(_fallbacks) == 0:
        _warn()
    return settings.at(url)


def _warn() -> None:
    from reliq.embedded import place

    logging.getLogger("reliq").warning(
        "no Redis URL was given and RELIQ_URL is unset: using a private embedded Redis in %s. Other "
        "machines, containers and users do not see its messages; set RELIQ_URL to share a queue.",
        place.find(None).directory,
    )
