"""Checks of Redis' memory: what happens when it is full, how much is left, how much is wasted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reliq.core.doctor.facts import QueueFacts, ServerFacts, again
from reliq.core.doctor.finding import CannotSee, Seen, check, seen
from reliq.core.reasons import Reason

_HEADROOM: Final = 0.9
#: Of the machine's memory: to rewrite its file Redis forks, and what is written meanwhile is there twice.
_OF_MACHINE: Final = 0.8
#: A small Redis always looks fragmented: its code and buffers are more than its data. Below this it is no matter.
_WASTE: Final = 100 * 1024 * 1024
_RATIO: Final = 1.5
#: A part of a queue that takes more than half of all is told of when it is this large, or memory is this full.
_LARGE: Final = 100 * 1024 * 1024
_FILLS: Final = 0.75


@check(Reason.EVICTION, "maxmemory-policy")
def eviction(server: ServerFacts) -> Iterator[Seen]:
    policy, limit = server.info.text("maxmemory_policy"), server.info.number("maxmemory")
    if policy == "noeviction":
        return
    if policy.startswith("volatile-"):
        yield Seen(
            "warning",
            f"maxmemory-policy is {policy}: of reliq's keys it deletes those that recognise a repeated put(id=)",
        )
    elif limit == 0:
        yield Seen("warning", f"maxmemory-policy is {policy}; only because maxmemory is 0 nothing is deleted yet")
    else:
        gone = server.info.number("evicted_keys")
        yield Seen("error", f"maxmemory-policy is {policy}, maxmemory {_mb(limit)}; keys deleted so far: {gone:,}")


@check(Reason.MEMORY_LOW, "memory against maxmemory")
def headroom(server: ServerFacts) -> Iterator[Seen]:
    limit = server.info.number("maxmemory")
    used = server.info.number("used_memory") - server.info.number("mem_not_counted_for_evict")
    if not limit or used < limit * _HEADROOM:
        return
    full = used >= limit
    yield Seen(
        "error" if full else "warning",
        f"{_mb(used)} of maxmemory {_mb(limit)} are used{': puts are refused' if full else ''}",
    )


@check(Reason.MEMORY_UNLIMITED, "maxmemory")
def unlimited(server: ServerFacts) -> Iterator[Seen]:
    if server.info.number("maxmemory"):
        return
    used, machine = server.info.number("used_memory"), server.info.number("total_system_memory")
    much = used > machine * _OF_MACHINE
    yield Seen(
        "warning" if much else "info",
        f"maxmemory is 0; Redis uses {_mb(used)} of the {_mb(machine)} that its machine has",
    )


@check(Reason.FRAGMENTED_MEMORY, "fragmentation")
def fragmentation(server: ServerFacts) -> Iterator[Seen]:
    # Not used_memory_rss: with jemalloc it has what is about to be given back, after every large message.
    used, active = server.info.number("allocator_allocated"), server.info.number("allocator_active")
    if active - used > _WASTE and active > used * _RATIO:
        yield Seen("warning", f"{_mb(used)} of data take {_mb(active)} of memory")


@check(Reason.LARGE_QUEUE, "what takes the memory")
def large(queue: QueueFacts) -> Iterator[Seen]:
    info = queue.server.info
    used, limit = info.number("used_memory"), info.number("maxmemory")
    part, size = max(seen(queue.sizes).items(), key=lambda pair: pair[1])
    fills = bool(limit) and used > limit * _FILLS
    if size * 2 < used or not (fills or size > _LARGE):
        return
    beside = 0 if isinstance(queue.server.keyspace, CannotSee) else (
        queue.server.keyspace.bodies.get(queue.name, (0, ()))[0])  # fmt: skip
    count, what, look = {
        "ready": (queue.ready, "what waits ({:,}) takes", "status"),
        "later": (queue.later, "what is put off ({:,}) takes", "peek --state later"),
        "dead": (queue.dead, "dead letters ({:,}) take", "dead ls"),
        "bodies": (beside, "large bodies beside the list ({:,}) take", "status"),
    }[part]
    yield Seen(
        "warning" if fills else "info",
        f"{what.format(seen(count))} about {_mb(size)} of the {_mb(used)} in use",
        f"see what it is: {again(queue, look)}",
    )


def _mb(size: int) -> str:
    return f"{size / 1024 / 1024:,.1f} MB"


CHECKS: Final = (eviction, headroom, unlimited, fragmentation)
OF_QUEUE: Final = (large,)
