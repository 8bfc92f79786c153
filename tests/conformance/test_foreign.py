"""What foreign programs push, read by each kind of codec; and what wire.md tells them to do, done."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis as redis_py

import reliq.core
from reliq.core import envelope as env
from tests.conformance.shell import Shell, dead_letters, now_ms

WIRE = (Path(reliq.core.__file__).parent / "wire.md").read_text("utf-8")


class Lines:
    """Somebody's own format: fields with commas between."""

    name = "lines"

    def encode(self, body: Any) -> bytes:
        return ",".join(body).encode()

    def decode(self, data: bytes) -> Any:
        return data.decode().split(",")


@pytest.mark.parametrize(
    ("codec", "element", "body"),
    [
        ("json", b'{"id":7}', {"id": 7}),
        ("msgpack", msgpack.packb({"id": 7}), {"id": 7}),
        ("bytes", b"\xc1rlq \x00 any bytes", b"\xc1rlq \x00 any bytes"),
        (Lines(), b"ada,bob", ["ada", "bob"]),
        (None, b'{"id":7}', {"id": 7}),
    ],
    ids=["json", "msgpack", "bytes", "own", "none named"],
)
async def test_raw_values_are_read_by_the_codec_of_their_queue(
    sh: Shell, redis: redis_py.Redis, codec: Any, element: bytes, body: Any
) -> None:
    """From a list that was there first; equal ones are each a message, also behind a retry; what the queue itself
    puts is read beside them."""
    key = f"{sh.prefix}-orders"
    redis.lpush(key, element, element)
    q = sh.queue("orders", key=key, codec=codec)
    await sh(q.put(body))
    redis.lpush(key, element)
    async with sh.open(q.consumer()) as c:
        first = (await sh(c.claim()))[0]
        assert (first.body, first.attempt) == (body, 1)
        await sh(first.retry(delay=0))
        seen = [first.id]
        while leases := await sh(c.claim(timeout=0.3)):
            for lease in leases:
                assert lease.body == body
                seen.append(lease.id)
                await sh(lease.ack())
    assert (len(seen), len(set(seen)), seen.count(first.id)) == (5, 4, 2)
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


@pytest.mark.parametrize("codec", ["json", "msgpack", Lines()], ids=["json", "msgpack", "own"])
async def test_a_raw_value_of_another_format_is_kept(sh: Shell, redis: redis_py.Redis, codec: Any) -> None:
    """It is a dead letter with its reason; its neighbour is handled."""
    q = sh.queue(codec=codec)
    redis.lpush(q.options.keys.ready, b"\xc1")
    await sh(q.put(["a"]))
    assert await sh.drain(q) == [["a"]]
    [(note, _)] = dead_letters(redis, q)
    assert note["cause"] == "UNDECODABLE"


def envelope_of(number: int) -> bytes:
    return env.pack(env.uuid7(1_700_000_000_000 + number, bytes(10)), b"%d" % number, {"c": "json"})


async def test_a_sequence_keeps_a_foreign_producer_from_making_copies(sh: Shell, redis: redis_py.Redis) -> None:
    """The script of wire.md: a repeat adds nothing, also when a sweep has seen the series idle, or after another
    one; and who puts with reliq is not disturbed."""
    q = sh.queue()
    keys = q.options.keys
    [source] = re.findall(r"```lua\n(.*?)```", WIRE, re.DOTALL)
    script = redis.register_script(source)

    def put(name: bytes, number: int) -> Any:
        return script(keys=[keys.ready, keys.producers], args=[name, number, envelope_of(number)])

    assert [put(b"a" * 12, 1), put(b"a" * 12, 1), put(b"b" * 12, 2), put(b"a" * 12, 3)] == [1, 0, 1, 1]
    await sh(q.put(4))
    assert await sh.drain(q) == [1, 2, 3, 4]
    redis.hset(keys.producers, b"a" * 12, b"3:1700000000000")
    assert [put(b"a" * 12, 3), put(b"a" * 12, 5)] == [0, 1]
    assert redis.hget(keys.producers, b"a" * 12) == b"5"
    assert await sh.drain(q) == [5]


async def test_a_foreign_producer_delays_an_envelope(sh: Shell, redis: redis_py.Redis) -> None:
    """With one ZADD; a consumer that is idle finds it within its block time after it is due."""
    q = sh.queue(block=0.5)
    async with sh.open(q.consumer()) as c:
        waiting = sh.start(c.claim, timeout=10)
        redis.zadd(q.options.keys.later, {envelope_of(7): now_ms(redis) + 300})
        started = time.monotonic()
        [lease] = await waiting
        assert (lease.body, lease.id) == (7, env.unpack(envelope_of(7)).id.hex())
        assert 0.2 < time.monotonic() - started < 3
        await sh(lease.ack())
