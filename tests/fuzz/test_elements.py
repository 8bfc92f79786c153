"""Raw elements of any bytes, wherever a foreign program may push them: handled, or kept with the reason."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import msgpack
import pytest
import redis as redis_py
from hypothesis import given, settings
from hypothesis import strategies as st

import reliq
from reliq.cli import peek
from reliq.core import envelope as env
from reliq.core import flows
from tests.conformance.shell import Shell, dead_letters
from tests.fuzz import fates
from tests.fuzz.mutants import BELL, MAGIC, seal

_ODD = [
    *(b"", b"\0", b"\0" * 100, b"\n", b" ", b"\xff", b"\xc1", b"\xc1" * 50),
    *(MAGIC, MAGIC + b"\0" * 35, BELL + b"\0"),
    *(b"null", b"{}", b'{"n": 1}', b"{", b"[1, 2", b"NaN", b'"\\ud800"', b"\xef\xbb\xbf{}"),
    *(b"[" * 3000, b"9" * 5000),
    *(msgpack.packb(x) for x in (None, {"n": 1}, [1, b"\xff"], "text", 2**64 - 1, msgpack.Timestamp(0, 1))),
    *(b"\xdd\x7f\xff\xff\xff", b"\xd7\xff" + b"\xff" * 8, b"\x81\x90\xc0", b"\x91" * 3000, b"\xa3\xff\xff\xff"),
    *(b"x" * 2**20, json.dumps("x" * 2**20).encode(), msgpack.packb("x" * 2**20), bytes(2**20)),
    *(b"*3\r\n$3\r\nSET\r\n", b"EVAL", "\u2028\ud7ff".encode()),
]  # fmt: skip
_rng = Random(1)
ELEMENTS = [*_ODD, *(_rng.randbytes(n) for n in range(60)), *_ODD[:20]]  # some twice: equal ones are several


def expected(elements: list[bytes], codec: str | None) -> tuple[Counter[str], Counter[bytes]]:
    """Bodies that are handled, as their repr; elements that are dead letters."""
    verdicts = [(element, *fates.verdict(element, codec)) for element in elements]
    handled = Counter(repr(body) for _, end, body in verdicts if end == fates.RAW)
    return handled, Counter(element for element, end, _ in verdicts if end == "UNDECODABLE")


def buried(redis: redis_py.Redis, queue: Any) -> Counter[bytes]:
    """The raw bodies of the dead letters, each with its reason."""
    letters = dead_letters(redis, queue)
    assert {note["cause"] for note, _ in letters} <= {"UNDECODABLE"}
    assert all(note["error"] for note, _ in letters)
    return Counter(env.unpack(element).body for _, element in letters)


@pytest.mark.parametrize("codec", [None, "json", "msgpack", "bytes"])
async def test_any_bytes_end_with_a_handler_or_as_a_dead_letter(
    sh: Shell, redis: redis_py.Redis, codec: str | None
) -> None:
    """By every codec: what can be decoded is handled, the rest is kept byte for byte with its reason."""
    queue = sh.queue(codec=codec)
    redis.lpush(queue.options.keys.ready, *ELEMENTS)
    bodies = await sh.drain(queue, prefetch=10)
    handled, kept = expected(ELEMENTS, codec)
    assert Counter(map(repr, bodies)) == handled
    assert buried(redis, queue) == kept
    assert tuple(await sh(queue.size())) == (0, 0, 0, kept.total())


async def test_what_somebody_wrote_into_the_other_places_comes_to_an_end_too(
    sh: Shell, redis: redis_py.Redis
) -> None:
    """In later it comes due, in a list that nobody registered or that a consumer has open it is found: nothing
    stops, nothing is dropped."""
    queue = sh.queue()
    keys = queue.options.keys
    junk = sorted({element for element in ELEMENTS if 0 < len(element) < 10_000})
    redis.zadd(keys.later, dict.fromkeys(junk, 1))
    redis.rpush(keys.inbox("nobody"), *junk)
    redis.rpush(keys.doing("nobody"), *junk)
    redis.zadd(keys.consumers, {"nobody": 1})
    redis.hset(keys.stats, "server_since", 0)
    redis.zadd(keys.consumers, {b"\xff no text": 1, b"": 2, b"for ever": "inf"})
    async with sh.open(queue.consumer(prefetch=50)) as consumer:
        redis.hset(keys.stats, mapping={"server": await _identity(redis), "server_since": 0})
        report = await sh(sh.Reaper(queue).run_once())
        assert report.errors == []
        redis.rpush(keys.doing(consumer.name), *junk)
        bodies: list[Any] = []
        while leases := await sh(consumer.claim(50, timeout=0.3)):
            for lease in leases:
                bodies.append(lease.body)
                await sh(lease.ack())
    assert (await sh(queue.size())).ready >= 0
    assert len(await sh(_consumers(queue))) == 3
    bodies += await sh.drain(queue)
    handled, kept = expected(junk, None)
    assert Counter(map(repr, bodies)) == Counter({body: 3 * n for body, n in handled.items()})
    found = Counter(body for note, e in dead_letters(redis, queue) for body in [_body(note, e)])
    assert found == Counter({e: 3 * n for e, n in kept.items()}) + Counter(junk)


def _consumers(queue: Any) -> Any:
    """What reliq status shows of them, in this shell."""
    return queue.links.flow(flows.consumers_g(queue.options.keys))


async def _identity(redis: redis_py.Redis) -> str:
    info: Any = redis.info()
    return f"{info['run_id']}:{info['master_replid']}"


def _body(note: dict[str, Any], element: bytes) -> bytes:
    return element if note["cause"] == "NOT_AN_ENVELOPE" else env.unpack(element).body


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.binary(max_size=200) | st.sampled_from(_ODD), st.sampled_from(peek.STATES), st.booleans(), st.booleans())
def test_peek_shows_anything(member: bytes, state: str, is_sealed: bool, full: bool) -> None:
    """Whatever stands there: one that looks at it gets a line and a JSON document, no traceback."""
    queue = reliq.Queue("q", "redis://127.0.0.1:1/0")
    element = seal(b"i" * 16 + member) if is_sealed else member
    found = peek.read(queue, element, peek.Found(state, element, note={"at": 1}))
    assert json.dumps(peek.as_json(found, 1_700_000_000_000, full=full))
    assert peek.body_text(found)
