"""What keeps messages from being claimed, for all workers at once: a pause, a rate, a number in hand.

It stands in the queue's stats, where every trip looks anyway; a queue without it costs nothing more. The server
counts: tokens by its clock, what is in hand by the processing lists themselves, so that no crash leaks a place.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from reliq.core import scripts
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys
from reliq.core.shape import FLAG
from reliq.errors import ConfigError

_GATE: Final = scripts.load("gate", shape=FLAG)
_FIELDS: Final = ("paused", "rate", "burst", "concurrency", "shared")
_MOST: Final = 1e9
_LEAST_RATE: Final = 1e-6


class Gate(NamedTuple):
    """What stands before a queue. ``paused``: by whom, or None, and ``paused_at``: server ms; ``draining``: who
    lets it take no puts, or None. ``rate``: messages a second (``burst`` of them at once after a rest) and
    ``concurrency``: messages in hand, of all workers together; None: no such limit."""

    paused: str | None = None
    paused_at: int | None = None
    rate: float | None = None
    burst: int | None = None
    concurrency: int | None = None
    draining: str | None = None
    tenant_rate: float | None = None
    tenant_burst: int | None = None
    tenant_concurrency: int | None = None

    def __str__(self) -> str:
        said = [f"paused by {self.paused}"] if self.paused is not None else []
        if self.draining is not None:
            said.append(f"takes no more puts, says {self.draining}")
        if self.rate is not None:
            said.append(f"at most {self.rate:g} a second ({self.burst} at once after a rest)")
        if self.concurrency is not None:
            said.append(f"at most {self.concurrency} in hand")
        if self.tenant_rate is not None:
            said.append(f"of each tenant at most {self.tenant_rate:g} a second ({self.tenant_burst} after a rest)")
        if self.tenant_concurrency is not None:
            said.append(f"of each tenant at most {self.tenant_concurrency} in hand")
        return ", ".join(said) or "open"

    @classmethod
    def parse(cls, reply: list[Any]) -> Gate:
        """Read the fields; whatever is none of ours counts as not there."""
        _, rate, burst, concurrency, shared = (None if v is None else v.decode("utf-8", "replace") for v in reply)
        at, by = (None, None) if reply[0] is None else _by(reply[0])
        each = [*(shared or "").split(" "), "", ""]
        return cls(
            by, at, _number(rate, float), _number(burst, int), _number(concurrency, int), None,
            _number(each[0], float), _number(each[1], int), _number(each[2], int),
        )  # fmt: skip


def _by(mark: bytes) -> tuple[int | None, str]:
    """Since when (server ms), and by whom."""
    at, _, by = mark.decode("utf-8", "replace").partition(" ")
    return int(at) if at.isdecimal() else None, by or "somebody"


def _number(text: str | None, kind: type[Any]) -> Any:
    try:
        return None if text is None else kind(text)
    except ValueError:
        return None


def look_g(keys: Keys) -> Flow[Gate]:
    """What stands before a queue now."""
    gate: Gate
    gate, closed = all_of(
        (
            yield [
                Command("HMGET", (keys.stats,), _FIELDS, Gate.parse, idempotent=True, queue=keys.queue),
                Command("HGET", (keys.producers,), (":closed",), idempotent=True, queue=keys.queue),
            ]
        )
    )
    return gate._replace(draining=None if closed is None else _by(closed)[1])


def pause(keys: Keys, who: str) -> Command:
    """Parses to True if it was not paused before."""
    return _set(keys, "pause", who)


def drain(keys: Keys, who: str) -> Command:
    """Parses to True if it took puts before."""
    return _set(keys, "drain", who)


def resume(keys: Keys, who: str) -> Command:
    """Parses to True if it was paused, or took no puts."""
    return _set(keys, "resume", who)


class Limits(NamedTuple):
    """How many messages are claimed: ``rate`` a second, ``burst`` of them at once after a rest, ``concurrency`` in
    hand; None: no such limit."""

    rate: float | None = None
    burst: int | None = None
    concurrency: int | None = None

    def checked(self, where: str) -> Limits:
        """With a burst if there is a rate; ConfigError if one of them cannot be. ``where``: before their names."""
        if self.rate is not None and not _is(self.rate, int | float, _LEAST_RATE):
            raise ConfigError(
                f"{where}rate={self.rate!r}): messages a second, {_LEAST_RATE:f} or more; None: no limit"
            )
        for name, value in (("burst", self.burst), ("concurrency", self.concurrency)):
            if value is not None and not _is(value, int, 1):
                raise ConfigError(
                    f"{where}{name}={value!r}): a whole number, at least 1; None: no limit. "
                    "To hold all back: pause()"
                )
        if self.burst is not None and self.rate is None:
            raise ConfigError(
                f"{where}burst={self.burst!r}): is for a rate; give {where.rpartition('(')[2]}rate=, too"
            )
        if self.rate is None or self.burst is not None:
            return self
        return self._replace(burst=max(1, round(self.rate)))  # what a second brings

    def words(self, none: str) -> tuple[str, str, str]:
        """For the script."""
        return tuple(none if v is None else f"{v:.12g}" for v in self)  # type: ignore[return-value]


NO_LIMITS: Final = Limits()


def limit(keys: Keys, who: str, limits: Limits, each_tenant: Limits = NO_LIMITS) -> Command:
    """Set all limits, of all messages and of those of each tenant. Parses to True if something is other than
    before."""
    where = f"queue {keys.queue!r}: limit("
    words = limits.checked(where).words("")
    return _set(keys, "limit", who, *words, " ".join(each_tenant.checked(where + "tenant_").words("-")))


def _is(value: Any, kind: Any, least: float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and least <= value <= _MOST


def _set(keys: Keys, *words: str | int) -> Command:
    names = (keys.stats, keys.events, keys.producers)
    return Command(_GATE, names, words, lambda r: r == 1, idempotent=True, queue=keys.queue)
