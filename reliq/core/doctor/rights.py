"""Checks of what this ACL user may do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reliq.core.doctor import grants
from reliq.core.doctor.facts import QueueFacts, ServerFacts
from reliq.core.doctor.finding import CannotSee, Seen, check, seen
from reliq.core.reasons import Reason


@check(Reason.MISSING_RIGHTS, "the rights of this user")
def commands(server: ServerFacts) -> Iterator[Seen]:
    denied = seen(server.denied)
    if not denied:
        return
    gone = sorted(name for name, said in denied.items() if "unknown command" in said)
    if gone:
        yield Seen(
            "error" if grants.ESSENTIAL & set(gone) else "warning",
            f"this server does not have {', '.join(gone)}",
            "take the rename-command lines for them out of redis.conf, or use another server",
        )
    refused = sorted(denied.keys() - set(gone))
    if refused:
        user = _user(server)
        yield Seen(
            "error" if grants.ESSENTIAL & set(refused) else "warning",
            f"user {user} may not {', '.join(refused)}",
            grants.line(user, grants.granting(refused)),
        )


@check(Reason.FORBIDDEN_KEYS, "the keys that this user may use")
def keys(queue: QueueFacts) -> Iterator[Seen]:
    forbidden = seen(queue.forbidden)
    if forbidden:
        user = _user(queue.server)
        adopted = [] if queue.keys.key is None else [queue.keys.key]
        yield Seen(
            "error",
            f"user {user} may not use {', '.join(forbidden)}",
            grants.line(user, grants.patterns(queue.keys.prefix, adopted)),
        )


def _user(server: ServerFacts) -> str:
    return "NAME" if isinstance(server.user, CannotSee) else server.user


OF_SERVER: Final = (commands,)
OF_QUEUE: Final = (keys,)
