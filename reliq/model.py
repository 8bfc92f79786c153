"""What both shells share about a queue: its checked settings, and how a body becomes an element."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import count, repeat
from typing import Any, Final

from reliq import context
from reliq.core import envelope as env
from reliq.core.codec import Codec, encode, encode_all, find
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.ops import NOTHING, NOW, Confirm, Confirmed, Due, Series, put, register
from reliq.core.retry import Retry
from reliq.errors import ConfigError, OutcomeUnknown, PutManyError, Refused

_ID: Final = struct.Struct(">8sQ")


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
        fixed, first = divmod(self._first(time.time_ns() // 1_000_000), 1 << 64)
        return list(map(_ID.pack, repeat(fixed.to_bytes(8, "big")), range(first, first + length)))

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
    host = socket.gethostname().split(".")[0][:40] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def clock() -> float:
    """Seconds that go on through suspend (CLOCK_BOOTTIME where there is one): leases are counted in it."""
    return _boottime()


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if not hasattr(time, "CLOCK_BOOTTIME"):
    _boottime = time.monotonic


def due(delay: float | None, at: datetime | None) -> Due:
    """When a put becomes ready; ConfigError for a naive datetime, a negative delay, or both at once."""
    if delay is None and at is None:
        return NOW
    if delay is not None and at is not None:
        raise ConfigError("put(delay=, at=): give one of them")
    if at is not None:
        if at.tzinfo is None:
            raise ConfigError(f"put(at={at!r}): a time without a zone; use datetime.now(timezone.utc) + …")
        return Due("at", round(at.timestamp() * 1000))
    assert delay is not None
    if not 0 <= delay < 1e10:
        raise ConfigError(f"put(delay={delay!r}): seconds, not negative")
    return Due("in", round(delay * 1000)) if delay else NOW


class Receipt(str):
    """The id of an accepted message (it is that text), and what was confirmed of its put.

    ``replicas``: how many replicas had it in memory; ``fsynced``: whether the primary had it on disk; None where
    the put did not ask.
    """

    __slots__ = ()
    replicas: int | None = None
    fsynced: bool | None = None


class ConfirmedReceipt(Receipt):
    """That of a put which asked."""

    __slots__ = ("fsynced", "replicas")

    def __new__(cls, id: str, replicas: int | None, fsynced: bool | None) -> ConfirmedReceipt:
        made = super().__new__(cls, id)
        made.replicas, made.fsynced = replicas, fsynced
        return made

    def __getnewargs__(self) -> tuple[str, int | None, bool | None]:  # type: ignore[override]
        return str(self), self.replicas, self.fsynced


def confirm(replicas: int, fsync: bool, timeout: float) -> Confirm:
    """What a put waits for, and for how long: so much less than ``timeout`` seconds that the answer comes before
    its end. (Redis looks at the clock every 100 ms.)"""
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 0:
        raise ConfigError(f"put(replicas={replicas!r}): how many replicas have to confirm it, 0 or more")
    if not isinstance(fsync, bool):
        raise ConfigError(f"put(fsync={fsync!r}): True or False")
    if not (replicas or fsync):
        return NOTHING
    return Confirm(replicas, fsync, round(1000 * max(timeout / 2, min(timeout * 0.8, timeout - 0.3))))


def receipts(ids: Sequence[bytes]) -> list[Receipt]:
    """Of a put that asked for nothing, or did not learn yet what was confirmed."""
    return list(map(Receipt, map(bytes.hex, ids)))


def confirmed(receipts: list[Receipt], reply: Any, command: Command) -> list[Receipt]:
    """What the caller of a put gets; OutcomeUnknown if not all that was asked for has been confirmed."""
    if not isinstance(reply, Confirmed):
        return receipts
    found: list[Receipt] = [ConfirmedReceipt(id, reply.replicas, reply.fsynced) for id in receipts]
    if missing := reply.shortfall:
        raise OutcomeUnknown(
            f"queue {command.queue!r}: put: the primary has it, but {missing} in time, so a failover or a crash "
            "may lose it. Give this error to queue.repeat() to wait again without a second copy.",
            ids=found,
            replay=command,
        )
    return found


@dataclass(frozen=True)
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

    @property
    def name(self) -> str:
        return self.keys.queue

    def element(self, body: Any, id: str | None = None) -> tuple[bytes, bytes]:
        """Encode a body into (id, element). The trace id of the context goes with it."""
        raw_id = _IDS.one() if id is None else env.named_id(_checked_id(id))
        return raw_id, env.seal(raw_id + self._meta(id) + encode(self.codec, body, self.max_body))

    def elements(self, bodies: Iterable[Any]) -> tuple[list[bytes], list[bytes]]:
        """The same for many, in order; if one of them cannot be encoded, for none."""
        data = encode_all(self.codec, list(bodies), self.max_body)
        raw_ids, meta = _IDS.many(len(data)), self._meta()
        return raw_ids, [env.seal(id + meta + body) for id, body in zip(raw_ids, data, strict=True)]

    @cached_property
    def _plain_meta(self) -> bytes:
        return env.pack_meta({} if self.codec.name == "msgpack" else {"c": self.codec.name})

    def _meta(self, id: str | None = None) -> bytes:
        trace_id = context.trace_id()
        if not trace_id and id is None:
            return self._plain_meta
        meta: env.Meta = {} if self.codec.name == "msgpack" else {"c": self.codec.name}
        if trace_id:
            meta["t"] = trace_id
        if id is not None:  # such an id does not tell when it was made
            meta["p"] = time.time_ns() // 1_000_000
        return env.pack_meta(meta)

    def registration(self) -> Command:
        """Writes this queue into the index of its prefix."""
        return register(self.keys, self.named_codec, self.lease, self.max_losses)

    def marker(self, id: str | None) -> str:
        """The key that stands for an explicit id, or nothing."""
        return "" if id is None else self.keys.marker(env.named_id(id))


def options(
    name: str,
    *,
    key: str | None,
    codec: str | Codec | None,
    prefix: str | None,
    lease: float,
    block: float,
    timeout: float,
    retry: Retry | None,
    max_losses: int,
    max_body: int,
) -> QueueOptions:
    """Check the arguments of Queue(...) against each other; ConfigError says which and why."""
    for label, value in (("lease", lease), ("block", block), ("timeout", timeout)):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"queue {name!r}: {label}={value!r} must be a number of seconds above 0")
    if lease < 0.5:
        raise ConfigError(f"queue {name!r}: lease={lease} s is too short to renew; use at least 0.5")
    if not isinstance(max_losses, int) or not 1 <= max_losses <= 255:
        raise ConfigError(f"queue {name!r}: max_losses={max_losses!r} must be 1 to 255")
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigError(f"queue {name!r}: retry={retry!r}: pass a reliq.Retry(attempts=, wait=, stop=)")
    chosen = find(codec)
    return QueueOptions(
        keys=Keys(name, prefix or os.environ.get("RELIQ_PREFIX") or "reliq", key),
        codec=chosen,
        raw_codec=find("json") if codec is None else chosen,
        named_codec=None if codec is None else chosen.name,
        lease=float(lease),
        block=float(block),
        timeout=float(timeout),
        retry=retry or Retry(),
        max_losses=max_losses,
        max_body=max_body,
    )


def _checked_id(id: str) -> str:
    if not isinstance(id, str) or not 0 < len(id) <= 500:
        raise ConfigError(f"put(id={id!r}): a text of 1 to 500 characters")
    return id


@dataclass
class Producer:
    """A numbered series of puts, one at a time, by which the server recognises a repeat."""

    keys: Keys
    name: bytes = field(default_factory=lambda: secrets.token_bytes(8))
    sequence: int = 0

    def __post_init__(self) -> None:
        self._series = Series(self.keys, self.name)

    def put(self, elements: Sequence[bytes], due: Due, marker: str, confirm: Confirm) -> Command:
        """The next of the series."""
        self.sequence += 1
        if len(elements) == 1 and due is NOW and not marker and confirm is NOTHING:
            return self._series.put(self.sequence, elements[0])
        return put(self.keys, self.name, self.sequence, elements, due, marker, confirm)


class Producers:
    """Idle producers. One whose put has an unknown outcome is not given back: its series is frozen."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._idle: deque[Producer] = deque()
        self._process = process()

    def take(self) -> Producer:
        """A producer that nobody else uses; never one that this process inherited by a fork."""
        if self._process is not process():
            self._idle, self._process = deque(), process()
        try:
            return self._idle.pop()
        except IndexError:
            return Producer(self._keys)

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
