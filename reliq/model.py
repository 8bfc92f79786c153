"""What both shells share about a queue: its checked settings, and how a body becomes an element."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from reliq import context, defaults
from reliq.core import beside, routing, trace
from reliq.core import envelope as env
from reliq.core.beside import Beside
from reliq.core.codec import Codec, decode, encode, encode_all, find
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.ops import NOTHING, NOW, Confirm, Confirmed, Due, Only, Series, chunks, put, register
from reliq.core.retry import POLICY_KEY, Retry
from reliq.errors import ConfigError, DecodeError, OutcomeUnknown, PutManyError, Refused, given

if TYPE_CHECKING:
    from reliq.core.lanes import Group, Lane
    from reliq.core.schedule import Definition, Schedule
    from reliq.core.unique import Unique
    from reliq.core.waiting import Caller
    from reliq.middleware import Middleware
    from reliq.settings import Settings

#: Bytes that one element may have more around its body than another of the same put: the word that it is traced.
_TRACED: Final = 8
#: The meta of a message of which there is nothing more to say.
PLAIN: Final[env.Meta] = {}


class Ids:
    """Fresh message ids, time-ordered (UUID version 7), 16 bytes each.

    73 bits are drawn at random whenever there is a new ms, or for many ids at once; from there they count up. So
    two of them never meet, whoever makes them, and those of one thread sort in the order of their making.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Count on from another number: a forked child must not from where its parent does."""
        self._ms, self._numbers = 0, count()

    def one(self) -> bytes:
        """The next one."""
        ms = time.time_ns() // 1_000_000
        if ms != self._ms:
            self._numbers, self._ms = count(self._first(ms)), ms
        return next(self._numbers).to_bytes(16, "big")

    def many(self, length: int) -> list[bytes]:
        """So many, in order."""
        first = self._first(time.time_ns() // 1_000_000)
        return [number.to_bytes(16, "big") for number in range(first, first + length)]

    @staticmethod
    def _first(ms: int) -> int:
        """With a zero on top of what counts, which never carries over into the fixed bits before it."""
        return int.from_bytes(env.uuid7(ms, os.urandom(10)), "big") & ~(1 << 61)


_IDS = Ids()
_process = object()


def process() -> object:
    """What stands for this process: another object in a forked child. (To ask for the pid is a system call.)"""
    return _process


def _born() -> None:
    global _process
    _process = object()
    _IDS.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_born)


def consumer_name() -> str:
    """A name that is never used again: host, process id and a random incarnation."""
    return f"{host_name()}-{os.getpid()}-{os.urandom(4).hex()}"


def host_name() -> str:
    """What the names of this host's consumers begin with."""
    return socket.gethostname().split(".")[0][:40] or "host"


def program() -> str:
    """How this program was called, without its folder."""
    called = sys.argv[0] if getattr(sys, "argv", None) else ""
    return env.storable(os.path.basename(called))[:80]


#: Linux has the first. The other one goes on through the sleep of a Mac, where time.monotonic() stands still.
_BOOTTIME: Any = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def clock() -> float:
    """Seconds that go on through suspend: leases are counted in it."""
    return time.clock_gettime(_BOOTTIME)


if _BOOTTIME is None:  # on Windows, whose time.monotonic() is one of that kind
    clock = time.monotonic


def due(delay: float | None, at: datetime | None, verb: str = "put") -> Due:
    """When a message becomes ready; ConfigError, which names the verb, for a naive datetime, a negative delay, or
    both at once."""
    if delay is None and at is None:
        return NOW
    if delay is not None and at is not None:
        raise ConfigError(f"{verb}(delay=, at=): give one of them")
    if at is not None:
        if not isinstance(at, datetime):
            raise ConfigError(f"{verb}(at={at!r}): a datetime with a zone, such as datetime.now(timezone.utc) + …")
        if at.tzinfo is None:
            raise ConfigError(f"{verb}(at={at!r}): a time without a zone; use datetime.now(timezone.utc) + …")
        return Due("at", round(at.timestamp() * 1000))
    assert delay is not None
    if not isinstance(delay, int | float) or not 0 <= delay < 1e10:
        raise ConfigError(f"{verb}(delay={given(delay)}): seconds, not negative")
    return Due("in", round(delay * 1000)) if delay else NOW


def another_time(delay: float | None, at: datetime | None) -> Due:
    """When a message becomes due that was put before; ConfigError as for a put, or if neither is given."""
    if delay is None and at is None:
        raise ConfigError("reschedule(delay=, at=): give one of them")
    return due(delay, at, "reschedule")


def caller(by: str = "", verb: str = "cancel") -> Caller:
    """Who does something to a message or a queue; ``by``: a word about that, instead of the program."""
    from reliq.core.waiting import Caller

    if not isinstance(by, str) or len(by) > 100 or not (by == "" or by.isprintable()):
        raise ConfigError(f"{verb}(by={by!r:.120}): who it is, a line of at most 100 characters")
    return Caller(f"{host_name()}:{os.getpid()}", env.storable(by.strip()) or program())


class Receipt(str):
    """The id of an accepted message (it is that text), and what was confirmed of its put.

    ``replicas``: how many replicas had it in memory; ``fsynced``: whether the primary had it on disk; None where
    the put did not ask. ``added``: False if nothing was put, since this message was there and has what was to be
    unique; ``replaced``: the id of the message in whose place it was put.
    """

    __slots__ = ()
    replicas: int | None = None
    fsynced: bool | None = None
    added: bool = True
    replaced: str | None = None

    def result(self, timeout: float | None = None) -> Any:
        """What its handler returned, as ``queue.result(id, timeout)`` gives it; in ``reliq.aio`` to be awaited."""
        raise ConfigError(
            f"receipt {self}: its put did not ask for a result (result=), or it was pickled since and knows no "
            "queue any more; then ask that: queue.result(id)"
        )

    def progress(self) -> Any:
        """How far its handler has come, as ``queue.progress(id)`` gives it; in ``reliq.aio`` to be awaited."""
        return self.result()  # which says why not


class FullReceipt(Receipt):
    """That of a put which asked for more than to be accepted."""

    __slots__ = ("added", "fsynced", "replaced", "replicas")

    def __new__(
        cls, id: str, replicas: int | None, fsynced: bool | None, added: bool = True, replaced: str | None = None
    ) -> FullReceipt:
        made = super().__new__(cls, id)
        made.replicas, made.fsynced, made.added, made.replaced = replicas, fsynced, added, replaced
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.replicas, self.fsynced, self.added, self.replaced


class AwaitedReceipt(FullReceipt):
    """That of a put which asked for a result: it knows where to ask."""

    __slots__ = ("_queue",)
    _queue: Any

    def result(self, timeout: float | None = None) -> Any:
        return self._queue.result(str(self), timeout)

    def progress(self) -> Any:
        return self._queue.progress(str(self))

    def __reduce__(self) -> Any:
        return FullReceipt, self.__getnewargs__()


def awaited(receipt: Receipt, queue: Any) -> Receipt:
    """The same, of a message in this queue whose result is asked for."""
    made = AwaitedReceipt(receipt, receipt.replicas, receipt.fsynced, receipt.added, receipt.replaced)
    made._queue = queue
    return made


def confirm(replicas: int, fsync: bool, timeout: float) -> Confirm:
    """What a put waits for, and for how long: so much less than ``timeout`` seconds that the answer comes before
    its end. (Redis looks at the clock every 100 ms.)"""
    if type(replicas) is int and not replicas and fsync is False:
        return NOTHING
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 0:
        raise ConfigError(f"put(replicas={replicas!r}): how many replicas have to confirm it, 0 or more")
    if not isinstance(fsync, bool):
        raise ConfigError(f"put(fsync={fsync!r}): True or False")
    return Confirm(replicas, fsync, round(1000 * max(timeout / 2, min(timeout * 0.8, timeout - 0.3))))


def extra(
    retry: Retry | None = None,
    expires: float | datetime | None = None,
    only: Unique | None = None,
    lane: Lane | None = None,
    type: str | None = None,
    result: float | bool = False,
    headers: Mapping[str, str] | None = None,
) -> env.Meta:
    """What a message carries of the words of its put; ConfigError if that is no policy, or cannot travel."""
    is_plain = retry is None and expires is None and lane is None and type is None and headers is None
    if is_plain and result is False:
        return PLAIN if only is None else only.meta
    meta: env.Meta = {} if only is None else dict(only.meta)
    if type is not None:
        meta[routing.KEY] = routing.checked(type, "put")
    if expires is not None:
        from reliq.core import expiry  # most messages do not, and most producers need none of it

        meta[expiry.KEY] = _deadline(expires)
    if result is not False:
        from reliq.core import results

        meta |= results.wanted(result)
    if retry is not None:
        if not isinstance(retry, Retry):
            raise ConfigError(f"put(retry={retry!r}): pass a reliq.Retry(attempts=, wait=, max_age=)")
        meta[POLICY_KEY] = retry.packed()
    if lane is not None:
        meta |= lane.meta
    if headers is not None:
        from reliq.core import headers as texts

        meta[texts.KEY] = texts.checked(headers)
    return meta


def lane(ordering_key: str | None, tenant: str | None, group: Group | str | None, due: Due) -> Lane | None:
    """Behind (or with) which others a message waits, as its put says; None: behind all."""
    if ordering_key is None and tenant is None and group is None:
        return None
    from reliq.core.lanes import Lane

    if group is not None and due is not NOW:
        raise ConfigError("put(group=): a group says itself when it is time; leave out delay= and at=")
    return Lane.checked(ordering_key, tenant, group)


def _deadline(expires: object) -> int:
    """Unix ms."""
    if isinstance(expires, datetime) and expires.tzinfo is not None:
        return round(expires.timestamp() * 1000)
    if isinstance(expires, int | float) and not isinstance(expires, bool) and 0 < expires < 1e10:
        return time.time_ns() // 1_000_000 + round(expires * 1000)
    raise ConfigError(
        f"put(expires={given(expires)}): give seconds from now, above 0, or a datetime with a zone, such as "
        "datetime.now(timezone.utc) + …"
    )


def unique(said: Unique | str | None) -> Unique | None:
    """What ``put(unique=…)`` says."""
    if said is None:
        return None
    from reliq.core.unique import Unique

    if isinstance(said, str):
        return Unique(said)
    if not isinstance(said, Unique):
        raise ConfigError(f"put(unique={said!r}): a text, or a reliq.Unique(key, …)")
    return said


def receipts(ids: Sequence[bytes]) -> list[Receipt]:
    """Of a put that asked for nothing, or did not learn yet what was confirmed."""
    return list(map(Receipt, map(bytes.hex, ids)))


def confirmed(receipts: list[Receipt], reply: Any, command: Command) -> list[Receipt]:
    """What the caller of a put gets; OutcomeUnknown if not all that was asked for has been confirmed."""
    if isinstance(reply, bool):
        return receipts
    asked = reply if isinstance(reply, Confirmed) else None
    kept, replaced = (asked.placed if asked else reply) or ("", "")
    replicas, fsynced = (asked.replicas, asked.fsynced) if asked else (None, None)
    found: list[Receipt] = [
        FullReceipt(kept or id, replicas, fsynced, not kept, replaced or None) for id in receipts
    ]
    if asked and (missing := asked.shortfall):
        raise OutcomeUnknown(
            f"queue {command.queue!r}: put: the primary has it, but {missing} in time, so a failover or a crash "
            "may lose it. Give this error to queue.repeat() to wait again without a second copy.",
            ids=found,
            replay=command,
        )
    return found


@dataclass(frozen=True, eq=False, repr=False)  # what nobody asks for, every import would pay for
class QueueOptions:
    """The checked settings of a queue; both shells build one from the same arguments."""

    keys: Keys
    codec: Codec
    raw_codec: Codec
    named_codec: str | None
    lease: float
    block: float
    timeout: float
    retry: Retry
    max_losses: int
    max_body: int
    claim_check: int
    compresses: bool
    #: Encoded bodies of more bytes are compressed, or lie beside the list, or both.
    large_from: int
    levels: Mapping[str, int]
    route: routing.Rule | None
    unrouted: str
    middleware: tuple[Middleware, ...]

    @property
    def name(self) -> str:
        return self.keys.queue

    def level(self, level: str) -> QueueOptions:
        """Those of the queue of one of its levels; ConfigError if it has none of this name."""
        from reliq.core.levels import keys_of

        keys = keys_of(self.keys, self.levels, level)
        return self if keys is self.keys else replace(self, keys=keys, levels={})

    def element(self, body: Any, id: str | None = None, extra: env.Meta = PLAIN) -> tuple[bytes, bytes]:
        """Encode a body into (id, element). The trace id of the context goes with it, and what is ``extra``."""
        raw_id = _IDS.one() if id is None else env.named_id(_checked_id(id))
        data = encode(self.codec, body, self.max_body)
        if len(data) > self.large_from:
            return raw_id, self._large(raw_id, data, id, extra)
        return raw_id, env.seal(raw_id + self._meta(raw_id, id, extra) + data)

    def _large(self, raw_id: bytes, data: bytes, id: str | None = None, extra: env.Meta = PLAIN) -> bytes:
        """The element of a message whose body is compressed, if that helps, and then is perhaps too large still to
        travel with it."""
        if self.compresses:
            from reliq.core import compression

            if (less := compression.compressed(data)) is not None:
                data, extra = less, {**extra, compression.KEY: compression.ZSTD}
        if len(data) <= self.claim_check:
            return env.seal(raw_id + self._meta(raw_id, id, extra) + data)
        name = _IDS.one()
        element = env.seal(raw_id + self._meta(raw_id, id, extra, ticket=beside.ticket(name, data)))
        return beside.checked(element, self.keys.body(name), data)

    def parts(self, bodies: Iterable[Any], extra: env.Meta = PLAIN) -> tuple[list[bytes], Iterable[list[bytes]]]:
        """The same for many, in order; if one of them cannot be encoded, for none: their ids, and the elements in
        parts that one call may put. What is one body is refused."""
        if isinstance(bodies, str | bytes | Mapping):
            raise ConfigError(f"put_many({bodies!r:.80}): a list of bodies, or another iterable; for one: put")
        data, size = encode_all(self.codec, list(bodies), self.max_body)
        raw_ids = _IDS.many(len(data))
        if size <= self.large_from:
            elements = self._seal_all(raw_ids, data, extra)
            around = len(elements[0]) - len(data[0]) + _TRACED if elements else 0
            if 0 < len(elements) <= self.most_at_once and size + len(elements) * around <= defaults.SCRIPT_BYTES:
                return raw_ids, [elements]
            return raw_ids, chunks(elements, self.most_at_once)
        large = {i: body for i, body in enumerate(data) if len(body) > self.large_from}
        elements = self._seal_all(raw_ids, [b"" if i in large else body for i, body in enumerate(data)], extra)
        for i, body in large.items():
            elements[i] = self._large(raw_ids[i], body, extra=extra)
        return raw_ids, chunks(elements, self.most_at_once)

    def _seal_all(self, ids: list[bytes], bodies: Sequence[bytes], extra: env.Meta) -> list[bytes]:
        return env.seal_all(ids, self._meta(extra=extra), bodies)

    @cached_property
    def _plain_meta(self) -> bytes:
        return env.pack_meta({} if self.codec.name == "msgpack" else {"c": self.codec.name})

    def _meta(
        self,
        raw_id: bytes = b"",
        id: str | None = None,
        extra: env.Meta = PLAIN,
        *,
        traced: bool = False,
        ticket: bytes = b"",
    ) -> bytes:
        trace_id = context.trace_id()
        if not (trace_id or id is not None or traced or ticket or extra):
            return self._plain_meta
        meta: env.Meta = {beside.KEY: ticket} if ticket else {}
        if self.codec.name != "msgpack":
            meta["c"] = self.codec.name
        if traced:
            meta[trace.KEY] = 1
        if trace_id:
            meta["t"] = trace_id
            if parent := context.parent():
                meta["s"] = parent
        meta |= extra
        if id is not None:  # such an id does not tell when it was made
            meta["p"] = time.time_ns() // 1_000_000
        return env.pack_meta(meta)

    def definition(
        self,
        body: Any,
        *,
        cron: str | None,
        every: float | None,
        tz: str,
        catch_up: str,
        jitter: float,
        retry: Retry | None,
        type: str | None = None,
    ) -> Definition:
        """What a schedule is given, checked, with its body encoded; ConfigError and BodyError say what is
        wrong."""
        from reliq.core import schedule, timing  # most programs have none

        data = encode(self.codec, body, self.max_body)
        made = schedule.define(timing.checked(cron, every, tz), catch_up, jitter, retry, self.codec.name, data)
        return (
            made
            if type is None
            else made._replace(meta={**made.meta, routing.KEY: routing.checked(type, "schedule")})
        )

    def schedule(self, name: str, definition: Definition, tick: int | None) -> Schedule:
        """A schedule as people see it; ``tick``: its next one, Unix ms."""
        from reliq.core import schedule

        try:
            body = decode(definition.meta, definition.body, self.codec, self.raw_codec)
        except DecodeError as error:
            raise DecodeError(error.code, f"the body of schedule {name!r} cannot be read: {error}") from error
        return schedule.shown(name, definition, tick, body)

    def traces(self, id: bytes) -> bool:
        """Whether every step of a message of this id, if it is put here, is written down."""
        return False

    def registration(self) -> Command:
        """Writes this queue into the index of its prefix."""
        return register(self.keys, self.named_codec, self.lease, self.max_losses)

    def marker(self, id: str | None) -> str:
        """The key that stands for an explicit id, or nothing."""
        return "" if id is None else self.keys.marker(env.named_id(id))

    def producers(self) -> Producers:
        """What puts into such a queue come from."""
        return Producers(self.keys)

    @property
    def most_at_once(self) -> int:
        """How many messages one call may put."""
        return defaults.SCRIPT_ELEMENTS


def options(
    name: str,
    settings: Settings,
    *,
    key: str | None,
    codec: str | Codec | None,
    prefix: str | None,
    lease: float,
    block: float | None,
    timeout: float | None,
    retry: Retry | None,
    max_losses: int,
    max_body: int,
    claim_check: int = defaults.CLAIM_CHECK,
    compress: str | None = None,
    trace: float | None = None,
    levels: Mapping[str, int] | bool = False,
    route: routing.Rule | str | None = None,
    unrouted: str = routing.WAIT,
    middleware: Sequence[Middleware] = (),
    may_await: bool = False,
) -> QueueOptions:
    """Check the arguments of Queue(...) against each other; ConfigError says which and why. ``settings`` have what
    they leave open."""
    block = settings.block if block is None else block
    timeout = settings.timeout if timeout is None else timeout
    for label, value in (("lease", lease), ("block", block), ("timeout", timeout)):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"queue {name!r}: {label}={given(value)}: it must be a number of seconds above 0")
    if lease < 0.5:
        raise ConfigError(f"queue {name!r}: lease={lease} s is too short to renew; use at least 0.5")
    if not isinstance(max_losses, int) or not 1 <= max_losses <= 255:
        raise ConfigError(f"queue {name!r}: max_losses={max_losses!r} must be 1 to 255")
    if isinstance(max_body, bool) or not isinstance(max_body, int) or max_body < 1:
        raise ConfigError(f"queue {name!r}: max_body={max_body!r}: the most bytes of an encoded body, 1 or more")
    if isinstance(claim_check, bool) or not isinstance(claim_check, int) or claim_check < 1024:
        raise ConfigError(
            f"queue {name!r}: claim_check={claim_check!r}: from which size on, in bytes, a body lies beside the "
            "list; at least 1024 (smaller ones are better off in it)"
        )
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigError(f"queue {name!r}: retry={retry!r}: pass a reliq.Retry(attempts=, wait=, stop=)")
    chosen, share, compresses = find(codec), _share(name, trace), _compresses(name, compress)
    return _kind(share)(
        keys=Keys(name, prefix or settings.prefix or "reliq", key),
        codec=chosen,
        raw_codec=find("json") if codec is None else chosen,
        named_codec=None if codec is None else chosen.name,
        lease=float(lease),
        block=float(block),
        timeout=float(timeout),
        retry=retry or Retry(),
        max_losses=max_losses,
        max_body=max_body,
        claim_check=claim_check,
        compresses=compresses,
        large_from=min(claim_check, defaults.COMPRESS_FROM) if compresses else claim_check,
        levels=_levels(name, levels) if levels else {},
        route=routing.rule(route, name),
        unrouted=routing.checked_unrouted(unrouted, name),
        middleware=_middleware(name, middleware, may_await=may_await) if middleware else (),
    )


def _compresses(name: str, compress: str | None) -> bool:
    if compress is None:
        return False
    from reliq.core.compression import checked

    return checked(name, compress)


def _levels(name: str, levels: Mapping[str, int] | bool) -> Mapping[str, int]:
    from reliq.core.levels import checked

    return checked(name, levels)


def _middleware(name: str, said: Sequence[Middleware], *, may_await: bool) -> tuple[Middleware, ...]:
    from reliq.middleware import checked  # most queues have none

    return checked(said, f"Queue {name!r}", may_await=may_await)


def _kind(share: float) -> Callable[..., QueueOptions]:
    """What makes the options of a queue that traces this share of its messages; most trace none."""
    if not share:
        return QueueOptions
    from reliq.tracing import TracingOptions

    return partial(TracingOptions, share=share)


def _share(name: str, trace: float | None) -> float:
    """Which share of the messages is traced, 0 to 1: as the queue says, else ``$RELIQ_TRACE``, else none."""
    said: object = (os.environ.get("RELIQ_TRACE") or 0) if trace is None else trace
    with suppress(ValueError, OverflowError):
        if isinstance(said, int | float) or (trace is None and isinstance(said, str)):
            share = float(said)
            if 0 <= share <= 1:
                return share
    where = f"RELIQ_TRACE={said!r}" if trace is None else f"queue {name!r}: trace={trace!r}"
    raise ConfigError(f"{where}: which share of the messages is traced, 0 to 1, as in 0.01; True means all")


def _checked_id(id: str) -> str:
    if not isinstance(id, str) or not 0 < len(id) <= 500:
        raise ConfigError(f"put(id={id!r}): a text of 1 to 500 characters")
    return id


class Producer:
    """A numbered series of puts, one at a time, by which the server recognises a repeat."""

    def __init__(self, keys: Keys) -> None:
        self.keys, self.name, self.sequence = keys, os.urandom(8), 0
        self._series = Series(keys, self.name)

    def put(
        self,
        elements: Sequence[bytes],
        due: Due,
        marker: str,
        confirm: Confirm,
        only: Only | None = None,
        *,
        lane: Lane | None = None,
    ) -> Command:
        """The next of the series."""
        self.sequence += 1
        is_plain = due is NOW and not (marker or lane) and confirm is NOTHING and only is None
        if is_plain and len(elements) == 1 and not isinstance(elements[0], Beside):
            return self._series.put(self.sequence, elements[0])
        return put(self.keys, self.name, self.sequence, elements, due, marker, confirm, only=only, lane=lane)


class Producers:
    """Idle producers. One whose put has an unknown outcome is not given back: its series is frozen."""

    def __init__(self, keys: Keys, make: Callable[[Keys], Producer] = Producer) -> None:
        self._keys, self._make = keys, make
        self._idle: deque[Producer] = deque()
        self._process = process()

    def take(self) -> Producer:
        """A producer that nobody else uses; never one that this process inherited by a fork."""
        if self._process is not process():
            self._idle, self._process = deque(), process()
        try:
            return self._idle.pop()
        except IndexError:
            return self._make(self._keys)

    def give_back(self, producer: Producer) -> None:
        self._idle.append(producer)


def partly(error: Refused | OutcomeUnknown, ids: Sequence[bytes], done: int, sent: int) -> PutManyError:
    """Which ids are in, which are not, which may be, when one chunk of several failed."""
    named = receipts(ids)
    unknown = named[done : done + sent] if isinstance(error, OutcomeUnknown) else []
    refused = named[done + len(unknown) :]
    return PutManyError(
        f"{done} of {len(named)} messages are in, {len(refused)} are not, {len(unknown)} may be: {error}",
        accepted=named[:done],
        refused=refused,
        unknown=unknown,
        replay=error.replay if isinstance(error, OutcomeUnknown) else None,
    )


def unknown_put(error: OutcomeUnknown, ids: Sequence[bytes], command: Command) -> OutcomeUnknown:
    """The error of a put without an answer: it carries what a repeat needs."""
    return OutcomeUnknown(
        f"{error} Give this error to queue.repeat() to send the same once more without a second copy.",
        ids=receipts(ids),
        replay=command,
    )


def replay_of(error: OutcomeUnknown | PutManyError) -> tuple[Command, list[str]]:
    """The put that such an error carries, and its ids."""
    ids = error.unknown if isinstance(error, PutManyError) else error.ids
    if not isinstance(error.replay, Command):
        raise ValueError("this error carries no put to repeat")
    return error.replay, ids
