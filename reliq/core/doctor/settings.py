"""Checks of settings against each other: those in somebody's code, in the URL, in the index and on the server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import combinations
from typing import Final

from reliq import defaults
from reliq.core.doctor.facts import Facts
from reliq.core.doctor.finding import CannotSee, Seen, check, seen
from reliq.core.keys import Keys
from reliq.core.reasons import Reason


@check(Reason.UNREADABLE_INDEX, "the index of queues")
def index(facts: Facts) -> Iterator[Seen]:
    key, wanted, found = facts.index.kind or (f"{facts.prefix}:queues", "hash", "none")
    if found not in (wanted, "none"):
        yield Seen(
            "error",
            f"{key} is a {found}, and should be a {wanted}",
            f"redis-cli RENAME {key} {key}:wrong; then every put and worker writes its queue anew",
        )
        return
    seen(facts.index.known)
    for name in facts.index.unreadable:
        remedy = (
            f"{shlex.join(['redis-cli', 'HDEL', key, name])}; the next put or worker of that queue writes it anew"
        )
        yield Seen("warning", f"entry {name!r} of {key} cannot be read", remedy)


@check(Reason.LOST_QUEUE, "queues that the index does not know")
def lost(facts: Facts) -> Iterator[Seen]:
    known = {entry.name for entry in seen(facts.index.known)} | set(facts.index.unreadable)
    unfinished = False
    for server in facts.servers:
        keyspace = seen(server.keyspace)
        unfinished |= not keyspace.whole
        for name, key in sorted(keyspace.queues.items()):
            if name not in known:
                yield Seen(
                    "warning", f"{key} belongs to a queue {name!r}, which {facts.prefix}:queues does not name"
                )
    if unfinished:
        raise CannotSee("there are too many keys to look at all of them in a moment")


@check(Reason.SHARED_LIST, "queues with the same list")
def shared(facts: Facts) -> Iterator[Seen]:
    lists = [(entry.name, Keys(entry.name, facts.prefix, entry.key).ready) for entry in seen(facts.index.known)]
    for (one, key), (other, same) in combinations(lists, 2):
        if key == same:
            yield Seen("warning", f"queues {one!r} and {other!r} both take from {key!r}")


@check(Reason.SPLIT_SLOTS, "whether each queue is in one slot")
def split(facts: Facts) -> Iterator[Seen]:
    yield from (Seen("error", each.reason) for each in facts.unreached if each.split)


@check(Reason.UNAVAILABLE, "whether each queue can be reached")
def reached(facts: Facts) -> Iterator[Seen]:
    yield from (Seen("error", f"queue {q.queue!r}: {q.reason}") for q in facts.unreached if not q.split)


@check(Reason.CONNECT_OVER_LEASE, "connect_timeout against the leases")
def connecting(facts: Facts) -> Iterator[Seen]:
    timeout = facts.connect_timeout
    if timeout is None:
        return
    for entry in seen(facts.index.known):
        if timeout * defaults.CUT_OFF_SHARE > entry.lease:
            yield Seen(
                "warning",
                f"queue {entry.name!r}: connect_timeout is {timeout:g} s, and the lease {entry.lease:g} s",
            )


@check(Reason.TIMEOUT_OVER_LEASE, "timeout= against lease= in your code")
def timeout(facts: Facts) -> Iterator[Seen]:
    for each in facts.settings:
        renewed = each.lease / defaults.RENEW_SHARE
        if renewed + each.timeout >= each.lease:
            yield Seen(
                "warning",
                f"queue {each.queue!r}: a lease of {each.lease:g} s is renewed after {renewed:.2g} s, and for an "
                f"answer we wait up to timeout={each.timeout:g} s",
                f"raise lease= above {1.5 * each.timeout:g}, or lower timeout= below {each.lease - renewed:.2g}",
            )


@check(Reason.BODY_OVER_LIMIT, "max_body= against the server's limits")
def bodies(facts: Facts) -> Iterator[Seen]:
    for server in facts.servers:
        limits = [("proto-max-bulk-len", server.config.number("proto-max-bulk-len"))]
        if memory := server.info.number("maxmemory"):
            limits.append(("maxmemory", memory))
        for name, limit in limits:
            for each in facts.settings:
                if each.max_body > limit:
                    yield Seen(
                        "warning",
                        f"queue {each.queue!r}: max_body is {each.max_body:,} bytes, and {name} {limit:,}",
                    )


@check(Reason.OTHER_SETTINGS, "the settings of queues in your code against the index")
def other(facts: Facts) -> Iterator[Seen]:
    known = {entry.name: entry for entry in seen(facts.index.known)} if facts.settings else {}
    for each in facts.settings:
        pairs: list[tuple[str, str | None, str | None]]
        pairs = [("Redis", each.redis, facts.redis), ("prefix", each.prefix, facts.prefix)]
        if entry := known.get(each.queue):
            pairs += [("key", each.key, entry.key), ("codec", each.codec, entry.codec)]
        for name, ours, theirs in pairs:
            if ours != theirs:
                yield Seen(
                    "warning", f"queue {each.queue!r}: {name} is {ours!r} in this code, and {theirs!r} here"
                )


CHECKS: Final = (
    *(index, lost, shared, split, reached),
    *(connecting, timeout, bodies, other),
)
