"""Single operations: functions that return the Command to run. What they parse is said beside each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from reliq import defaults
from reliq.core import scripts
from reliq.core.beside import Beside
from reliq.core.command import Arg, Command, bulk
from reliq.core.keys import SCHEMA, Keys
from reliq.core.shape import fits
from reliq.core.trace import Told
from reliq.errors import NewerSchema, QueueDraining, Unavailable

if TYPE_CHECKING:
    from reliq.core.lanes import Lane


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


class Only(NamedTuple):
    """That a message is put only if no other one has its key (see unique): where it is known who has it, the words
    for the script, and how its answer is read."""

    lock: str
    words: bytes
    parse: Callable[[Any], Any]


class Confirmed(NamedTuple):
    """What was confirmed of a put; None: not asked for. ``error``: why not, if the server says so. ``placed``:
    what became of one that is Only."""

    wanted: Confirm
    replicas: int | None
    fsynced: bool | None
    error: str
    placed: Any = None

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
    told: Told | None = None,
    only: Only | None = None,
    lane: Lane | None = None,
) -> Command:
    """Accept elements. Parses to True (accepted now) or False (this very put was accepted before), or to what
    ``only`` makes of the answer; if there is something to ``confirm``, to Confirmed. ``told``: of which of them
    the put is written down. ``lane``: behind which others they wait."""
    names: tuple[str, ...] = (keys.ready, keys.producers)
    args: tuple[Arg, ...] = (producer, sequence)
    large = elements[0] if isinstance(elements[0], Beside) else None  # which goes alone
    if due is not NOW or marker or told or only or lane or large is not None:
        names += (keys.later, keys.consumers, keys.traces)
        names += (only.lock,) if only else ()
        names += (marker, keys.results + marker[-32:]) if marker else ()
        by, program, ids = told or ("", "", ())
        args += (due.how, due.ms, round(defaults.DEDUPE_WINDOW * 1000) if marker else 0)
        args += (" ".join(id.hex() for id in ids), by, program)
        names += (keys.stats, keys.uniques, keys.lanes, keys.turns) if lane else ()
        names += (large.key,) if large is not None else ()
        args += (int(large is not None), only.words if only else "")
        args += ((lane and lane.ordering_key) or "", (lane and lane.tenant) or "")
        args += (lane.group.words if lane and lane.group else "",)
    read = only.parse if only else accepted(keys.queue, has_body=large is not None)
    command = Command(scripts.put, names, (*args, *elements), read, True, keys.queue)
    if confirm is NOTHING:
        return command

    def parse(replies: Sequence[Any]) -> Confirmed:
        found = read(replies[0])  # which raises if it was not
        return _confirmed(confirm, replies[1:], found if only else None)

    return command._replace(parse=parse, after=confirm.commands(), needs=(7, 2) if confirm.fsync else (0, 0))


class Series:
    """The puts of one producer that are of one element each, plainly for now. What they have in common is packed
    once."""

    def __init__(self, keys: Keys, producer: bytes) -> None:
        self._producer, self._queue = producer, keys.queue
        self._names = (keys.ready, keys.producers)
        self._read = accepted(keys.queue, has_body=False)
        words: tuple[Arg, ...] = ("EVALSHA", scripts.put.sha, len(self._names), *self._names, producer)
        self._head = b"*%d\r\n%b" % (len(words) + 2, b"".join(map(bulk, words)))

    def put(self, sequence: int, element: bytes) -> Command:
        """As ``put``."""
        number = b"%d" % sequence
        packed = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._head, len(number), number, len(element), element)
        args = (self._producer, sequence, element)
        return Command(scripts.put, self._names, args, self._read, True, self._queue, (), (0, 0), packed)


@lru_cache(maxsize=1024)  # a program may put into any number of queues
def accepted(queue: str, *, has_body: bool) -> Callable[[Any], bool]:
    """How the plain answer to a put is read: True: accepted now, False: before. Raises QueueDraining; and
    Unavailable, if it has a body beside the list, which is not there."""

    def parse(reply: Any) -> bool:
        if reply == 1:
            return True
        if reply == -2:
            raise QueueDraining(
                f"queue {queue!r} takes no more puts, since somebody drains it (reliq status says who); nothing "
                "was put. Put again after `reliq resume`"
            )
        if reply == -1 and not has_body:
            raise TypeError("there is no body that could be gone")
        if reply == -1:
            raise Unavailable(
                f"queue {queue!r}: the body that was brought for it is gone, so nothing was put: put it again"
            )
        return False

    return parse


def _confirmed(wanted: Confirm, replies: Sequence[Any], placed: Any) -> Confirmed:
    errors = "; ".join(str(reply) for reply in replies if isinstance(reply, Exception))
    waitaof, wait = (replies[0] if wanted.fsync else None), (replies[-1] if wanted.replicas else None)
    fsynced = None if waitaof is None else not isinstance(waitaof, Exception) and int(waitaof[0]) >= 1
    replicas = None if wait is None else 0 if isinstance(wait, Exception) else int(wait)
    return Confirmed(wanted, replicas, fsynced, errors, placed)


def weight(element: bytes) -> int:
    """Bytes of what one call may carry; one that has its body beside the list goes alone."""
    return defaults.SCRIPT_BYTES if isinstance(element, Beside) else len(element)


def chunks(elements: list[bytes], most: int = defaults.SCRIPT_ELEMENTS) -> Iterator[list[bytes]]:
    """Split into what one script call may take, ``most`` of them; one over the limit of bytes goes alone."""
    start, size = 0, 0
    for end, element in enumerate(elements):
        if end > start and (end - start >= most or size + weight(element) > defaults.SCRIPT_BYTES):
            yield elements[start:end]
            start, size = end, 0
        size += weight(element)
    if start < len(elements):
        yield elements[start:]


def bell(keys: Keys, consumer: str, seconds: float) -> Command:
    """Block until there is a message and move it into our inbox. Nothing depends on the reply."""
    names = (keys.ready, keys.inbox(consumer))
    return Command("BLMOVE", names, ("RIGHT", "RIGHT", seconds), queue=keys.queue)


def leave(keys: Keys, consumer: str, *, bell_ended: bool) -> Command:
    """Say goodbye. Parses to True if the registration is gone."""
    k = keys
    names = (k.ready, k.inbox(consumer), k.doing(consumer), k.consumers, k.session(consumer), k.events)
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
    again by itself: if Redis did not answer at once, others could not renew either, see reaping.Patience."""
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
        *(k.dead, k.events, k.stats, k.uniques, k.lanes, k.later, k.results, k.turns),
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
    """Write the queue into the index of its prefix, so that commands find it by name and know its settings. Raises
    NewerSchema if its keys have a schema that this release does not know."""

    def parse(reply: list[int]) -> None:
        if reply[0] > SCHEMA[0]:
            raise NewerSchema(
                f"queue {keys.queue!r}: its keys have schema {reply[0]}.{reply[1]}, of a later release of reliq; "
                f"this one knows {SCHEMA[0]}.{SCHEMA[1]} and keeps away. Upgrade it: nothing is lost meanwhile"
            )

    record = json.dumps({"key": keys.key, "codec": codec, "lease": lease, "max_losses": max_losses})
    args = (keys.queue, record[:-1], *SCHEMA)
    return Command(scripts.register, (keys.queues,), args, parse, idempotent=True, queue=keys.queue)


class Known(NamedTuple):
    """A queue as the index knows it."""

    name: str
    key: str | None = None
    codec: str | None = None
    lease: float = defaults.LEASE
    max_losses: int = defaults.MAX_LOSSES
    schema: str = "1.0"


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
    """Parses to the number of members of a list (LLEN), sorted set (ZCARD) or hash (HLEN)."""
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


_RECORD: Final = ("who", "lease", "dead", "leaving", "quiet", "cancel")


def session(keys: Keys, consumer: str) -> Command:
    """Parses to the record of a consumer, as far as it is set: who, lease, dead, leaving, quiet, cancel."""

    def parse(reply: Any) -> dict[str, str]:
        return {name: _text(value) for name, value in zip(_RECORD, reply, strict=True) if value is not None}

    return Command("HMGET", (keys.session(consumer),), _RECORD, parse, idempotent=True, queue=keys.queue)


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
