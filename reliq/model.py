"""What both shells share about a queue: its checked settings, and how a body becomes an element."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from reliq import context, defaults
from reliq.core import beside, routing, trace
from reliq.core import envelope as env
from reliq.core.codec import Codec, decode, encode, encode_all, find
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.ops import chunks, register
from reliq.core.retry import Retry
from reliq.errors import ConfigError, DecodeError, given
from reliq.identity import IDS
from reliq.putting import PLAIN

if TYPE_CHECKING:
    from reliq.core.schedule import Definition, Schedule
    from reliq.middleware import Middleware
    from reliq.producer import Producers
    from reliq.settings import Settings

#: Bytes that one element may have more around its body than another of the same put: the word that it is traced.
_TRACED: Final = 8


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
        raw_id = IDS.one() if id is None else env.named_id(_checked_id(id))
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
        name = IDS.one()
        element = env.seal(raw_id + self._meta(raw_id, id, extra, ticket=beside.ticket(name, data)))
        return beside.checked(element, self.keys.body(name), data)

    def parts(self, bodies: Iterable[Any], extra: env.Meta = PLAIN) -> tuple[list[bytes], Iterable[list[bytes]]]:
        """The same for many, in order; if one of them cannot be encoded, for none: their ids, and the elements in
        parts that one call may put. What is one body is refused."""
        if isinstance(bodies, str | bytes | Mapping):
            raise ConfigError(f"put_many({bodies!r:.80}): a list of bodies, or another iterable; for one: put")
        data, size = encode_all(self.codec, list(bodies), self.max_body)
        raw_ids = IDS.many(len(data))
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
        from reliq.producer import Producers

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
