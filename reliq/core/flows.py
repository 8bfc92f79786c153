"""Operations of several steps, written once for both shells: generators that yield Commands.

A flow is sent the parsed reply of what it yielded (a list of them for a list) and returns its result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from reliq.core import ops
from reliq.core.command import Flow
from reliq.core.keys import Keys


def all_of(replies: list[Any]) -> list[Any]:
    """The replies of a pipeline of which none may be missing; raises the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


class Sizes(NamedTuple):
    """How many messages of a queue are in each state."""

    ready: int
    doing: int
    later: int
    dead: int


def sizes_g(keys: Keys) -> Flow[Sizes]:
    """Count by state, all at one moment; counted anew if a consumer came or went in between."""
    for _ in range(5):
        names = [name for name, _ in (yield ops.consumers(keys))]
        ready, later, dead, doing, registered = yield ops.sizes(keys, names)
        if registered == len(names):
            break
    return Sizes(ready, doing, later, dead)


class ConsumerInfo(NamedTuple):
    """A registered consumer: ``lease_ms`` left by the server's clock (negative: over), what it holds;
    ``whole_ms``: how long its lease is, 0 if it has not said so yet; ``quiet``: it was told to claim no more."""

    name: str
    lease_ms: int
    doing: int
    inbox: int
    who: str
    dead: bool
    leaving: bool
    whole_ms: int = 0
    quiet: bool = False


def consumers_g(keys: Keys) -> Flow[list[ConsumerInfo]]:
    """Who is registered, with leases and what each holds."""
    now, registered = all_of((yield [ops.server_time(), ops.consumers(keys)]))
    found = []
    for start in range(0, len(registered), 200):
        batch = registered[start : start + 200]
        replies = yield [
            command
            for name, _ in batch
            for command in (
                ops.length(keys.doing(name)),
                ops.length(keys.inbox(name)),
                ops.session(keys, name),
            )
        ]
        all_of(replies)
        for place, (name, end) in enumerate(batch):
            doing, inbox, record = replies[3 * place : 3 * place + 3]
            found.append(
                ConsumerInfo(
                    name,
                    end - now,
                    doing,
                    inbox,
                    record.get("who", ""),
                    "dead" in record,
                    "leaving" in record,
                    int(lease) if (lease := record.get("lease", "")).isdigit() else 0,
                    "quiet" in record,
                )
            )
    return found
