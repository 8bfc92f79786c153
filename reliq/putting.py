"""What the words of a put mean: when, behind whom, until when, once, and confirmed by whom."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from reliq.core import envelope as env
from reliq.core import routing
from reliq.core.ops import NOTHING, NOW, Confirm, Due
from reliq.core.retry import POLICY_KEY, Retry
from reliq.errors import ConfigError, given

if TYPE_CHECKING:
    from reliq.core.lanes import Group, Lane
    from reliq.core.unique import Unique

#: The meta of a message of which there is nothing more to say.
PLAIN: Final[env.Meta] = {}


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
