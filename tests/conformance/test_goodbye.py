"""What a consumer leaves behind when it goes after connections of it were lost."""

from __future__ import annotations

import asyncio

import redis as redis_py

from reliq.aio.engine import Engine as AioEngine
from reliq.errors import OutcomeUnknown
from reliq.sync.engine import Engine as SyncEngine
from tests.conformance.shell import Shell


def blocked(redis: redis_py.Redis) -> int:
    return sum(c["cmd"] == "blmove" and c["name"] == "reliq-bell" for c in redis.client_list())


async def test_goodbye_ends_the_blmoves_of_lost_connections_too(sh: Shell, redis: redis_py.Redis) -> None:
    """A BLMOVE went out on a connection that was lost, and another one on the next: both are ended before the
    registration goes, or one of them could take a message for a name that nobody visits any more."""
    q = sh.queue()
    engine = (SyncEngine if sh.name == "sync" else AioEngine)(q, "test")
    await sh(engine.trip(0))
    before, rings = blocked(redis), []
    for number in (1, 2):
        rings.append(sh.start(engine.ring, 30))
        for _ in range(500):
            if blocked(redis) == before + number:
                break
            await asyncio.sleep(0.01)
        # It believes that this connection is lost, and makes another one.
        engine._bells = await sh(q.links.new(name="reliq-bell", read_timeout=40))
    assert blocked(redis) == before + 2
    assert await sh(engine.end_bell())
    results = await asyncio.wait_for(asyncio.gather(*rings, return_exceptions=True), 5)
    assert [type(result) for result in results] == [OutcomeUnknown, OutcomeUnknown]
    assert blocked(redis) == before
    assert await sh(engine.leave(bell_ended=True))
