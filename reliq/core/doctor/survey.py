"""Gathering the facts: flows of few round trips, the same for any shell. They read, and change nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from reliq.core import envelope as env
from reliq.core import flows, ledger, ops, pulse
from reliq.core.command import Command, Flow
from reliq.core.doctor import grants, ours
from reliq.core.doctor.facts import (
    Clock,
    Incidents,
    Index,
    Keyspace,
    KeyType,
    QueueFacts,
    ServerFacts,
    SlowCall,
    Table,
    best,
)
from reliq.core.doctor.finding import CannotSee
from reliq.core.doctor.grants import because
from reliq.core.flows import ConsumerInfo
from reliq.core.keys import Keys, schema_of
from reliq.core.ops import Known
from reliq.core.topology import Server
from reliq.errors import AccessDenied, ReliqError

#: Looks at the server's clock.
_LOOKS: Final = 5
#: Read of the slow log, and of a queue's ledger.
_SLOW_ENTRIES: Final = 128
_LEDGER_ENTRIES: Final = 1000
#: Consumers' lists of one queue that are looked into.
_LISTS: Final = 200
#: Seconds for the walk through the keys; 1,000 keys take about 0.3 ms of Redis.
WALK_SECONDS: Final = 2.0
_HOUR_MS: Final = 3_600_000

#: One by one, as Redis 6.2 takes one name a call; never ``*``, which would tell passwords.
_SETTINGS: Final = (
    *("maxmemory", "appendfsync", "no-appendfsync-on-rewrite", "save", "stop-writes-on-bgsave-error"),
    *("min-replicas-to-write", "min-replicas-max-lag", "timeout", "tcp-keepalive", "maxclients"),
    "proto-max-bulk-len",
)
_HEAVY: Final = ("ready", "later", "dead")
#: Large bodies beside the lists whose sizes stand for those of all.
_BODIES: Final = 20
_TYPES: Final = (
    *(("ready", "list"), ("consumers", "zset"), ("later", "zset"), ("dead", "zset")),
    *(("events", "stream"), ("traces", "stream"), ("stats", "hash"), ("lock", "hash"), ("producers", "hash")),
    *(("schedules", "hash"), ("ticks", "zset")),
)


class Place(NamedTuple):
    """Where a server was reached: its ``label`` for people, whether it is ``local`` (a Unix socket), found by a
    ``sentinel``, and the number of the ``database``."""

    label: str
    local: bool = False
    sentinel: bool = False
    database: int = 0


# -- a server -----------------------------------------------------------------------------------------------


def server_facts_g(
    place: Place, server: Server, keys: Keys, clock: Callable[[], float], wall: Callable[[], float]
) -> Flow[ServerFacts]:
    """Look at the server that serves ``keys``. ``clock`` gives seconds that never jump, ``wall`` Unix seconds."""
    clocks = yield from _clocks_g(clock, wall)
    info, user, slow, cluster, *settings = yield [
        Command("INFO", (), (), _fields, idempotent=True),
        Command("ACL WHOAMI", (), (), _text, idempotent=True),
        Command("SLOWLOG GET", (), (_SLOW_ENTRIES,), _slow_calls, idempotent=True),
        Command("CLUSTER INFO", (), (), _fields, idempotent=True),
        *(Command("CONFIG GET", (), (name,), _pair, idempotent=True) for name in _SETTINGS),
    ]
    commands = grants.needed(
        server.version, cluster=server.cluster, sentinel=place.sentinel, database=place.database
    )
    return ServerFacts(
        label=place.label,
        local=place.local,
        now=round(wall() * 1000 + (0 if isinstance(clocks, CannotSee) else best(clocks).ahead_ms)),
        clocks=clocks,
        info=Table("INFO", _or_blind("INFO", info)),
        config=_config(settings),
        cluster=Table("CLUSTER INFO", _or_blind("CLUSTER INFO", cluster)) if server.cluster else None,
        user=_or_blind("ACL WHOAMI", user),
        slow=_or_blind("SLOWLOG GET", slow),
        denied=(yield from grants.denied_commands_g(keys, commands)),
        keyspace=(yield from _keyspace_g(keys, clock)),
    )


def _clocks_g(clock: Callable[[], float], wall: Callable[[], float]) -> Flow[Sequence[Clock] | CannotSee]:
    clocks = []
    for _ in range(_LOOKS):
        asked, before = clock(), wall()
        try:
            now = yield ops.server_time()
        except AccessDenied as error:
            return CannotSee(f"TIME: {because(error)}")
        took = clock() - asked
        clocks.append(Clock(took * 1000, now - (before + took / 2) * 1000))
    return clocks


def _or_blind(what: str, reply: Any) -> Any:
    return CannotSee(f"{what}: {because(reply)}") if isinstance(reply, Exception) else reply


def _config(replies: Sequence[Any]) -> Table:
    pairs: dict[str, str] = dict(reply for reply in replies if isinstance(reply, tuple))
    errors = [reply for reply in replies if isinstance(reply, Exception)]
    return Table("CONFIG GET", pairs if pairs or not errors else _or_blind("CONFIG GET", errors[0]))


def _text(reply: Any) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def _fields(reply: Any) -> dict[str, str]:
    """``name:value`` lines, as INFO gives them."""
    return dict(line.split(":", 1) for line in _text(reply).splitlines() if ":" in line)


def _pair(reply: Any) -> tuple[str, str] | None:
    return (_text(reply[0]), _text(reply[1])) if len(reply) == 2 else None


def _slow_calls(reply: Any) -> list[SlowCall]:
    """Those of scripts of ours."""
    found = []
    for _, at, micros, words, *_ in reply:
        name = ours.name_of([_text(word) for word in words[:2]])
        if name:
            found.append(SlowCall(name, int(at), int(micros) / 1000))
    return found


def _keyspace_g(keys: Keys, clock: Callable[[], float]) -> Flow[Keyspace | CannotSee]:
    """Walk through the keys under the prefix, for some time at most."""
    reader = _KeyReader(keys.prefix)
    queues: dict[str, str] = {}
    lists: dict[tuple[str, str], str] = {}
    bodies: dict[str, tuple[int, list[str]]] = {}
    cursor, until = 0, clock() + WALK_SECONDS
    while True:
        try:
            cursor, page = yield Command(
                "SCAN",
                (),
                (cursor, "MATCH", reader.pattern, "COUNT", 1000),
                _page,
                idempotent=True,
                queue=keys.queue,
            )
        except ReliqError as error:
            return CannotSee(f"SCAN: {because(error)}")
        for key in page:
            queue, part, consumer = reader.read(key)
            if part in ("inbox", "doing"):
                lists[queue, consumer] = key
            if part == "body":
                count, some = bodies.get(queue, (0, []))
                bodies[queue] = (count + 1, some if len(some) == _BODIES else [*some, key])
            if part in ("ready", "later", "dead", "inbox", "doing"):
                queues[queue] = key
        if cursor == 0 or clock() > until:
            return Keyspace(queues, lists, bodies, cursor == 0)


def _page(reply: Any) -> tuple[int, list[str]]:
    return int(reply[0]), [_text(key) for key in reply[1]]


class _KeyReader:
    """Takes key names apart: ``prefix:{tag}:queue:part``, ``…:queue:doing:consumer``, ``…:queue:body:name``."""

    def __init__(self, prefix: str) -> None:
        start = "".join("\\" + c if c in "*?[]\\^" else c for c in prefix)
        self.pattern = start + ":{*}:*:[ridlb]*"  # ready, inbox, doing, dead, later, body
        self._form = re.compile(
            re.escape(prefix) + r":\{[^}]*\}:(.+?):(?:(ready|later|dead)|(inbox|doing|body):(.*))\Z", re.DOTALL
        )

    def read(self, key: str) -> tuple[str, str, str]:
        """queue, part, consumer (of a body: its name); all empty if it is none of those that hold messages."""
        match = self._form.match(key)
        return (match[1], match[2] or match[3], match[4] or "") if match else ("", "", "")


# -- the index ----------------------------------------------------------------------------------------------


def index_g(prefix: str) -> Flow[Index]:
    """Read the index of a prefix."""
    key = f"{prefix}:queues"
    known, names, found = yield [
        ops.known_queues(prefix),
        Command("HGETALL", (key,), (), lambda reply: [_text(name) for name in reply[::2]], idempotent=True),
        Command("TYPE", (key,), (), _text, idempotent=True),
    ]
    kind = None if isinstance(found, Exception) else KeyType(key, "hash", found)
    if isinstance(known, Exception):
        return Index(CannotSee(f"HGETALL {key}: {because(known)}"), [], kind)
    read = {entry.name for entry in known}
    return Index(known, [name for name in names if name not in read], kind)


# -- a queue ------------------------------------------------------------------------------------------------


def queue_facts_g(entry: Known, keys: Keys, server: ServerFacts, max_age: float | None = None) -> Flow[QueueFacts]:
    """Look at a queue, on a server whose facts are known."""
    usual = Keys(keys.queue, keys.prefix)
    now = server.now
    ready, head, newest, later, due, shared, turn, soonest, dead, died, told, beside, tick, *more = yield [
        ops.length(keys.ready),
        ops.page(keys.ready, -1, -1),
        ops.page(keys.ready, 0, 0),
        ops.length(keys.later, "ZCARD"),
        Command("ZCOUNT", (keys.later,), ("-inf", now), idempotent=True, queue=keys.queue),
        pulse.shared(keys),
        pulse.next_shared(keys),
        ops.page(keys.later, 0, 0, "ZRANGE"),
        ops.length(keys.dead, "ZCARD"),
        Command("ZCOUNT", (keys.dead,), (now - _HOUR_MS, "+inf"), idempotent=True, queue=keys.queue),
        Command("XREVRANGE", (keys.events,), ("+", now - _HOUR_MS, "COUNT", _LEDGER_ENTRIES), idempotent=True),
        ops.length(usual.ready if keys.key is not None else keys.inbox("doctor")),
        ops.page(keys.ticks, 0, 0, "ZRANGE"),
        *(Command("MEMORY USAGE", (getattr(keys, part),), idempotent=True) for part in _HEAVY),
        *(Command("TYPE", (getattr(keys, part),), (), _text, idempotent=True) for part, _ in _TYPES),
    ]
    sizes, types = more[: len(_HEAVY)], more[len(_HEAVY) :]
    consumers = yield from _consumers_g(keys)
    is_bell = not isinstance(head, Exception) and head == [env.BELL]
    return QueueFacts(
        keys=keys,
        lease=entry.lease,
        server=server,
        now=now,
        types=_key_types(keys, types),
        ready=_known(ready, lambda n: int(n) - is_bell),
        head=_known(head, lambda page: None if is_bell or not page else page[0]),
        newest=_known(newest, lambda page: page[0] if page and page[0] != env.BELL else None),
        later=_known(later, int),
        due=_known(due, int),
        shared=_known(shared, int),
        turn=_known(turn, lambda put_ms: put_ms),
        soonest=_known(soonest, lambda page: int(float(page[1])) if page else None),
        tick=_known(tick, lambda page: int(float(page[1])) if page else None),
        dead=_known(dead, int),
        died=_known(died, int),
        ledger=_known(told, _incidents),
        sizes=(yield from _sizes_g(keys, server, sizes)),
        consumers=consumers,
        strays=(yield from _strays_g(keys, server)),
        beside=_known(beside, int),
        forbidden=(yield from grants.forbidden_keys_g(keys)),
        schema=schema_of(entry.schema),
        max_age=max_age,
    )


def _key_types(keys: Keys, replies: Sequence[Any]) -> Sequence[KeyType] | CannotSee:
    if errors := [reply for reply in replies if isinstance(reply, Exception)]:
        return CannotSee(f"TYPE: {because(errors[0])}")
    return [
        KeyType(getattr(keys, part), wanted, found) for (part, wanted), found in zip(_TYPES, replies, strict=True)
    ]


def _known(reply: Any, read: Callable[[Any], Any]) -> Any:
    return CannotSee(because(reply)) if isinstance(reply, Exception) else read(reply)


def _sizes_g(keys: Keys, server: ServerFacts, replies: Sequence[Any]) -> Flow[Mapping[str, int] | CannotSee]:
    """Bytes by part; what large bodies beside the lists take is reckoned from some of them."""
    count, some = (0, []) if isinstance(server.keyspace, CannotSee) else (
        server.keyspace.bodies.get(keys.queue, (0, [])))  # fmt: skip
    bodies = (yield [Command("MEMORY USAGE", (key,), idempotent=True) for key in some]) if some else []
    if errors := [reply for reply in (*replies, *bodies) if isinstance(reply, Exception)]:
        return CannotSee(f"MEMORY USAGE: {because(errors[0])}")
    found = {part: int(size or 0) for part, size in zip(_HEAVY, replies, strict=True)}
    return found | {"bodies": sum(int(size or 0) for size in bodies) * count // max(1, len(some))}


def _incidents(entries: Iterable[Any]) -> Incidents:
    """Read the ledger, the newest entry first."""
    causes, lost, deaths, rollbacks, unrouted = Counter[str](), Counter[str](), [], [], []
    for entry in ledger.read(entries):
        event, detail = entry.get("event"), entry.get("detail", "?")
        if event == "bury":
            causes[detail] += 1
        if (event, detail) in (("bury", "POISON"), ("reap", "lost")):
            lost[entry["id"]] += 1
        if event == "die" and not detail.startswith("0 "):
            deaths.append(entry["at"])
        if event == "rollback":
            rollbacks.append((entry["at"], detail))
        if event == "unrouted":
            unrouted.append((entry["at"], detail.partition(" ")[2]))
    return Incidents(causes, deaths, lost, rollbacks, unrouted)


def _consumers_g(keys: Keys) -> Flow[Sequence[ConsumerInfo] | CannotSee]:
    try:
        return (yield from flows.consumers_g(keys))
    except ReliqError as error:
        return CannotSee(because(error))


def _strays_g(keys: Keys, server: ServerFacts) -> Flow[Mapping[str, int] | CannotSee]:
    """How many messages lie in lists that nobody registered. A name is never used again: who is not registered and
    then has something in his list will not come back for it."""
    if isinstance(server.keyspace, CannotSee):
        return server.keyspace
    found = {name: key for (queue, name), key in server.keyspace.lists.items() if queue == keys.queue}
    names = list(found)[:_LISTS]
    scores = (
        (yield [Command("ZSCORE", (keys.consumers,), (name,), idempotent=True) for name in names]) if names else []
    )
    strays = [name for name, score in zip(names, scores, strict=True) if score is None]
    lists = [(name, key) for name in strays for key in (keys.inbox(name), keys.doing(name))]
    held = (yield [ops.length(key) for _, key in lists]) if lists else []
    counts: Counter[str] = Counter()
    for (name, _), count in zip(lists, held, strict=True):
        counts[name] += 0 if isinstance(count, Exception) else count
    return {name: count for name, count in counts.items() if count}
