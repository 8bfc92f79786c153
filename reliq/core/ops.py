"""Single operations: functions that return the Command to run. What they parse is said beside each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import scripts
from reliq.core.command import Arg, Command, bulk
from reliq.core.keys import Keys
from reliq.core.shape import fits


class Due(NamedTuple):
    """When a message becomes ready: at once, after a delay, or at a Unix time; the server's clock counts."""

    how: str = "ready"
    ms: int = 0


NOW = Due()
#: Producers that one sweep looks at: about a ms of Redis.
_SWEEP: Final = 400


class Confirm(NamedTuple):
    """What a put waits for beyond the answer of the primary: ``replicas`` that have it in memory, and whether the
    primary has it on disk. ``ms``: how long, in all."""

    replicas: int = 0
    fsync: bool = False
    ms: int = 0

    def commands(self) -> tuple[tuple[Arg, ...], ...]:
        """Behind the put, on the same connection: they wait for what that connection wrote last."""
        each = max(1, self.ms // (2 if self.replicas and self.fsync else 1))
        fsync = (("WAITAOF", 1, 0, each),) if self.fsync else ()
        return (*fsync, ("WAIT", self.replicas, each)) if self.replicas else fsync


NOTHING = Confirm()


class Confirmed(NamedTuple):
    """What was confirmed of a put; None: not asked for. ``error``: why not, if the server says so."""

    wanted: Confirm
    replicas: int | None
    fsynced: bool | None
    error: str

    @property
    def shortfall(self) -> str:
        """What is missing, in words; empty if all was confirmed."""
        parts = []
        if self.replicas is not None and self.replicas < self.wanted.replicas:
            parts.append(f"{self.replicas} of {self.wanted.replicas} replicas confirmed it")
        if self.fsynced is False:
            parts.append("the primary did not confirm that it is on disk")
        return " and ".join(parts) + (f" ({self.error})" if parts and self.error else "")


def put(
    keys: Keys,
    producer: bytes,
    sequence: int,
    elements: Sequence[bytes],
    due: Due = NOW,
    marker: str = "",
    confirm: Confirm = NOTHING,
) -> Command:
    """Accept elements. Parses to True (accepted now) or False (this very put was accepted before); if there is
    something to ``confirm``, to Confirmed."""
    names: tuple[str, ...] = (keys.ready, keys.producers)
    args: tuple[Arg, ...] = (producer, sequence)
    if due is not NOW or marker:
        names += (keys.later, keys.consumers, marker) if marker else (keys.later, keys.consumers)
        args += (due.how, due.ms, round(defaults.DEDUPE_WINDOW * 1000))
    command = Command(scripts.put, names, (*args, *elements), _accepted, True, keys.queue)
    if confirm is NOTHING:
        return command
    return command._replace(
        parse=lambda replies: _confirmed(confirm, replies[1:]),
        after=confirm.commands(),
        needs=(7, 2) if confirm.fsync else (0, 0),
    )


class Series:
    """The puts of one producer that are of one element each, plainly for now. What they have in common is packed
    once."""

    def __init__(self, keys: Keys, producer: bytes) -> None:
        self._producer, self._queue = producer, keys.queue
        self._names = (keys.ready, keys.producers)
        words: tuple[Arg, ...] = ("EVALSHA", scripts.put.sha, len(self._names), *self._names, producer)
        self._head = b"*%d\r\n%b" % (len(words) + 2, b"".join(map(bulk, words)))

    def put(self, sequence: int, element: bytes) -> Command:
        """As ``put``."""
        number = b"%d" % sequence
        packed = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._head, len(number), number, len(element), element)
        args = (self._producer, sequence, element)
        return Command(scripts.put, self._names, args, _accepted, True, self._queue, (), (0, 0), packed)


def _accepted(reply: Any) -> bool:
    return bool(reply == 1)


def _confirmed(wanted: Confirm, replies: Sequence[Any]) -> Confirmed:
    errors = "; ".join(str(reply) for reply in replies if isinstance(reply, Exception))
    waitaof, wait = (replies[0] if wanted.fsync else None), (replies[-1] if wanted.replicas else None)
    fsynced = None if waitaof is None else not isinstance(waitaof, Exception) and int(waitaof[0]) >= 1
    replicas = None if wait is None else 0 if isinstance(wait, Exception) else int(wait)
    return Confirmed(wanted, replicas, fsynced, errors)


def chunks(elements: list[bytes]) -> Iterator[list[bytes]]:
    """Split into what one script call may take; one element over the limit goes alone."""
    if len(elements) <= defaults.SCRIPT_ELEMENTS and sum(map(len, elements)) <= defaults.SCRIPT_BYTES:
        if elements:
            yield elements
        return
    start, size = 0, 0
    for end, element in enumerate(elements):
        if end > start and (
            end - start >= defaults.SCRIPT_ELEMENTS or size + len(element) > defaults.SCRIPT_BYTES
        ):
            yield elements[start:end]
            start, size = end, 0
        size += len(element)
    if start < len(elements):
        yield elements[start:]


def bell(keys: Keys, consumer: str, seconds: float) -> Command:
    """Block until there is a message and move it into our inbox. Nothing depends on the reply."""
    names = (keys.ready, keys.inbox(consumer))
    return Command("BLMOVE", names, ("RIGHT", "RIGHT", seconds), queue=keys.queue)


def leave(keys: Keys, consumer: str, *, bell_ended: bool) -> Command:
    """Say goodbye. Parses to True if the registration is gone."""
    k = keys
    names = (k.ready, k.inbox(consumer), k.doing(consumer), k.consumers, k.session(consumer))
    return Command(
        scripts.leave, names, (consumer, int(bell_ended)), lambda r: r == 1, idempotent=True, queue=k.queue
    )


def renew(keys: Keys, consumer: str, lease: float) -> Command:
    """Lengthen the lease of a child. Parses to False if it is dead or gone."""
    names = (keys.consumers, keys.session(consumer))
    return Command(
        scripts.renew, names, (consumer, round(lease * 1000)), lambda r: r == 1, idempotent=True,
        queue=keys.queue,
    )  # fmt: skip


def expired(keys: Keys, offset: int, count: int, recent: float | None = None) -> Command:
    """Parses to (server ms, names of consumers whose lease is over; since ``recent`` seconds at most). Never sent
    again by itself: if Redis did not answer at once, others could not renew either, see flows.Patience."""
    return Command(
        scripts.expired,
        (keys.consumers,),
        (offset, count, "" if recent is None else round(recent * 1000)),
        lambda r: (r[0], [_text(name) for name in r[1:]]),
        queue=keys.queue,
    )


class Reaped(NamedTuple):
    """The answer of one reap call."""

    status: str
    returned: int
    buried: int
    more: bool


def reap(
    keys: Keys,
    consumer: str,
    *,
    dead: bool = False,
    lease: float = defaults.LEASE,
    server: str = "",
    max_losses: int = defaults.MAX_LOSSES,
    started: Sequence[bytes] | None = None,
    elements: int = defaults.REAP_ELEMENTS,
) -> Command:
    """Requeue what a dead consumer held, up to so many ``elements``; ``dead``: its process was seen to die.

    ``started``: exactly the ids that handlers had in hand, if that is known. Parses to Reaped.
    """
    k = keys
    names = (
        *(k.ready, k.inbox(consumer), k.doing(consumer), k.consumers, k.session(consumer)),
        *(k.dead, k.events, k.stats),
    )
    args: list[Arg] = [
        consumer,
        "dead" if dead else "lease",
        max_losses,
        round(lease * 1000),
        server,
        elements,
        defaults.SCRIPT_BYTES * elements // defaults.REAP_ELEMENTS,
        round(defaults.FORGET_AFTER * 1000),
        int(started is not None),
        *(id.hex() for id in started or ()),
    ]
    return Command(
        scripts.reap,
        names,
        tuple(args),
        lambda r: Reaped(r[0].decode(), r[1], r[2], bool(r[3])),
        idempotent=True,
        queue=k.queue,
    )


def sweep_producers(keys: Keys) -> Command:
    """Forget idle producers, some of them. Parses to True if there is likely more to do."""
    args = (_SWEEP, round(defaults.DEDUPE_WINDOW * 1000))
    return Command(
        scripts.sweep_producers,
        (keys.producers,),
        args,
        lambda r: r > _SWEEP / 4,
        idempotent=True,
        queue=keys.queue,
    )


def scan_lists(keys: Keys, cursor: int) -> Command:
    """One bounded step of SCAN for this queue's lists. Parses to (next cursor, consumer names)."""

    def parse(reply: Any) -> tuple[int, list[str]]:
        names = (keys.consumer_of(key.decode("utf-8", "replace")) for key in reply[1])
        return int(reply[0]), [n for n in dict.fromkeys(names) if n]

    args = (cursor, "MATCH", keys.lists_pattern, "COUNT", 1000)
    return Command("SCAN", (), args, parse, idempotent=True, queue=keys.queue)


def register(keys: Keys, codec: str | None, lease: float, max_losses: int) -> Command:
    """Write the queue into the index of its prefix, so that commands find it by name and know its settings."""
    record = json.dumps({"key": keys.key, "codec": codec, "lease": lease, "max_losses": max_losses})
    return Command("HSET", (keys.queues,), (keys.queue, record), idempotent=True, queue=keys.queue)


class Known(NamedTuple):
    """A queue as the index knows it."""

    name: str
    key: str | None = None
    codec: str | None = None
    lease: float = defaults.LEASE
    max_losses: int = defaults.MAX_LOSSES


def known_queues(prefix: str) -> Command:
    """Parses to the list of Known queues under a prefix, by name; entries that cannot be read are skipped."""

    def parse(reply: Any) -> list[Known]:
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        found = []
        for name, record in pairs:
            try:
                entry = json.loads(record)
                settings = {k: v for k, v in dict.items(entry) if k in Known._fields[1:]}
                found.append(Known(name.decode(), **settings))
            except (ValueError, TypeError):
                continue
        return sorted(found, key=lambda known: known.name)

    return Command("HGETALL", (f"{prefix}:queues",), (), parse, idempotent=True)


def length(key: str, verb: str = "LLEN") -> Command:
    """Parses to the number of members of a list (LLEN) or sorted set (ZCARD)."""
    return Command(verb, (key,), (), int, idempotent=True)


def sizes(keys: Keys, names: Sequence[str]) -> Command:
    """Count by state, with these consumers. Parses to [ready, later, dead, in hands, registered consumers]."""
    lists = (part(name) for name in names for part in (keys.inbox, keys.doing))
    return Command(
        scripts.sizes, (keys.ready, keys.later, keys.dead, keys.consumers, *lists), idempotent=True,
        queue=keys.queue,
    )  # fmt: skip


def consumers(keys: Keys) -> Command:
    """Parses to [(consumer, lease end in server ms), ...], soonest first."""

    def parse(reply: Any) -> list[tuple[str, int]]:
        return [(_text(n), _ms(s)) for n, s in zip(reply[::2], reply[1::2], strict=True)]

    return Command("ZRANGE", (keys.consumers,), (0, -1, "WITHSCORES"), parse, idempotent=True, queue=keys.queue)


def session(keys: Keys, consumer: str) -> Command:
    """Parses to the record of a consumer: who, lease, trip, epoch, dead, leaving."""

    def parse(reply: Any) -> dict[str, str]:
        it = iter(reply)
        return {_text(k): _text(v) for k, v in zip(it, it, strict=True)}

    return Command("HGETALL", (keys.session(consumer),), (), parse, idempotent=True, queue=keys.queue)


def _text(name: bytes) -> str:
    """As far as it is one: anybody may have written it."""
    return name.decode("utf-8", "replace")


def _ms(score: bytes) -> int:
    return int(max(-1e15, min(float(score), 1e15)))


def server_time() -> Command:
    """Parses to the server's Unix ms."""
    return Command("TIME", (), (), lambda r: int(r[0]) * 1000 + int(r[1]) // 1000, idempotent=True)


def page(key: str, start: int, stop: int, verb: str = "LRANGE") -> Command:
    """Elements of a list (LRANGE) or members of a sorted set with scores (ZRANGE)."""
    args: tuple[Arg, ...] = (start, stop) if verb == "LRANGE" else (start, stop, "WITHSCORES")
    return Command(verb, (key,), args, _byte_strings, idempotent=True)


def _byte_strings(reply: Any) -> list[bytes]:
    if not fits(reply, (bytes, ...)):
        raise TypeError("no list of byte strings")
    found: list[bytes] = reply
    return found


def unblock(client_id: int) -> Command:
    """End the BLMOVE of a connection of ours, as if it had timed out."""
    return Command("CLIENT UNBLOCK", (), (client_id, "TIMEOUT"), idempotent=True)


def kill_client(client_id: int) -> Command:
    """Close a connection of ours on the server, whatever it is doing there. Parses to how many there were."""
    return Command("CLIENT KILL", (), ("ID", client_id), idempotent=True)
