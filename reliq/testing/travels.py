"""Time travel in a queue, on a server whose clock nobody can set: what waits for a time is brought nearer to it.

A tick of a schedule is named by its time, so that is not touched: the ticks on the way are fired, each once, and
their messages wait as if they had been put before.
"""

from __future__ import annotations

import os
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

from reliq.core import envelope as env
from reliq.core import expiry, ops, ticks
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys
from reliq.core.lanes import PARKED
from reliq.core.scripts import Script
from reliq.core.ticks import Shot
from reliq.errors import ConfigError, DecodeError, given
from reliq.identity import host_name, program
from reliq.model import QueueOptions

_SOURCE: Final = Path(__file__).with_name("travel.lua").read_text("utf-8")
_TRAVEL: Final = Script("travel", _SOURCE, sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest())
#: More ticks than anybody wants in a test: it would take a minute.
_MOST_TICKS: Final = 10_000


def checked(seconds: object) -> int:
    """In ms; ConfigError if that is no time to travel."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        raise ConfigError(f"travel({given(seconds)}): seconds above 0; nobody can go back")
    return max(1, round(seconds * 1000))


def travel_g(options: QueueOptions, ms: int) -> Flow[int]:
    """Go so far; returns how many messages have become due."""
    keys = options.keys
    yield from _fire_g(options, ms)
    ready, later = all_of((yield [ops.page(keys.ready, 0, -1), ops.page(keys.later, 0, -1, "ZRANGE")]))
    waiting = dict.fromkeys([*ready, *later[::2]])
    pairs = [word for old in waiting if (new := _older(old, ms)) for word in (old, new)]
    due = yield Command(
        _TRAVEL, (keys.ready, keys.later, keys.stats, keys.turns), (ms, PARKED, *pairs), queue=keys.queue
    )
    yield from _end_sooner_g(keys, ms)
    return int(due)


def next_due_g(keys: Keys) -> Flow[int | None]:
    """In how many ms the first of what is delayed is due, at least 0; None: nothing is delayed."""
    first, now = all_of((yield [ops.page(keys.later, 0, 0, "ZRANGE"), ops.server_time()]))
    return max(0, int(float(first[1])) - now) if first and float(first[1]) < PARKED else None


def _older(element: bytes, ms: int) -> bytes | None:
    """The same message, if it had been put so much earlier; None: nobody can say when this one was put."""
    try:
        e = env.unpack(element)
    except DecodeError:
        return None
    put, deadline = env.put_ms(e), expiry.deadline_of(e.meta)
    meta = dict(e.meta) if put is None else {**e.meta, "p": put - ms}
    if deadline is not None:
        meta[expiry.KEY] = deadline - ms
    counters = {"returns": e.returns, "failed": e.failed, "released": e.released, "lost": e.lost}
    return env.pack(e.id, e.body, meta, **counters)


def _fire_g(options: QueueOptions, ms: int) -> Flow[None]:
    """The ticks between now and then, as workers would have fired them meanwhile."""
    keys = options.keys
    travelled = Command("HGET", (keys.stats,), ("travelled",), lambda r: int(r or 0), idempotent=True)
    before, now = all_of((yield [travelled, ops.server_time()]))
    shots: list[Shot] = []
    for name, packed, tick in (yield from ticks.list_g(keys)):
        while tick is not None and tick <= now + before + ms:
            [shot], _ = ticks.shots_of(keys.queue, name, tick, packed, tick, options.traces)
            element = (before and _older(shot.element, before)) or shot.element
            shots.append(shot._replace(due=shot.due - before, element=element))
            tick = shot.following
            if len(shots) > _MOST_TICKS:
                raise ConfigError(
                    f"queue {keys.queue!r}: there are more than {_MOST_TICKS:,} ticks on the way, with those of "
                    f"schedule {name!r}; travel by shorter steps, or unschedule it"
                )
    shots.sort(key=lambda shot: shot.tick)
    for call in ticks.calls_of(shots):
        yield ticks.fire(keys, f"{host_name()}:{os.getpid()}", program(), call)


def _end_sooner_g(keys: Keys, ms: int) -> Flow[None]:
    """What ends by itself (markers of ids, unique keys): so much sooner."""
    cursor = 0
    while True:
        args: Any = (cursor, "MATCH", keys.tagged_pattern, "COUNT", 1000)
        reply = yield Command("SCAN", (), args, idempotent=True, queue=keys.queue)
        names = [key for raw in reply[1] if keys.part_of(key := raw.decode("utf-8", "replace")) is not None]
        if names:
            left = all_of((yield [Command("PTTL", (name,), idempotent=True) for name in names]))
            ending = [(name, ttl - ms) for name, ttl in zip(names, left, strict=True) if ttl >= 0]
            if ending:
                all_of((yield [Command("PEXPIRE", (name,), (ttl,), idempotent=True) for name, ttl in ending]))
        cursor = int(reply[0])
        if not cursor:
            return
