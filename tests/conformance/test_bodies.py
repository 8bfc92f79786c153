"""Bodies of all types, from a put to a handler, in both shells."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
import redis as redis_py

from reliq.core import envelope as env
from tests.conformance.shell import Shell, dead_letters

BODY: dict[str, Any] = {
    "at": datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc),
    "naive": datetime(2030, 1, 2, 3, 4, 5),
    "day": date(2030, 1, 2),
    "opens": time(9, 30),
    "takes": timedelta(hours=1, microseconds=1),
    "id": UUID(int=17),
    "price": Decimal("1.10"),
    "raw": b"\xff",
    "tags": {"a", (1, 2), frozenset({3})},
}


async def test_all_types_arrive_as_they_were_sent(sh: Shell) -> None:
    """One by one, many at once, later, and in a schedule."""
    queue = sh.queue()
    await sh(queue.put(BODY))
    await sh(queue.put_many([BODY, [BODY]]))
    await sh(queue.put(BODY, delay=0.01, id="later"))
    await sh(queue.schedule("daily", BODY, every=3600))
    [daily] = await sh(queue.schedules())
    assert daily.body == BODY
    got: list[Any] = []
    while len(got) < 4:
        got += await sh.drain(queue)
    assert got == [BODY, BODY, [BODY], BODY]


@pytest.mark.parametrize("code", [100, 103, 104, 106, 111])
async def test_nonsense_in_an_extension_type_is_dead_lettered(sh: Shell, redis: redis_py.Redis, code: int) -> None:
    """With its reason; what comes after it is handled."""
    queue = sh.queue()
    bad = env.pack(bytes(15) + bytes([code]), msgpack.packb({"x": msgpack.ExtType(code, b"nonsense")}))
    redis.lpush(queue.options.keys.ready, bad)
    await sh(queue.put("next"))
    assert await sh.drain(queue) == ["next"]
    [(note, element)] = dead_letters(redis, queue)
    assert (note["cause"], element) == ("UNDECODABLE", bad)
    assert f"extension type {code}" in note["error"]
