"""``capture``: what is put through a queue is noted, and sent or not; in both shells."""

from __future__ import annotations

import pytest

import reliq
from reliq.errors import BodyError, ConfigError
from reliq.testing import capture
from tests.conformance.shell import Shell


async def test_passes_through(sh: Shell) -> None:
    """What was accepted is noted, with what the call said, and is in the queue; afterwards nothing is noted."""
    queue = sh.queue(levels=True)
    with capture(queue) as puts:
        first = await sh(queue.put({"n": 1}, id="one"))
        second, third = await sh(queue.put_many(iter([2, 3]), delay=60))
        high = await sh(queue.put(4, priority="high"))
        again = await sh(queue.level("high").put(5))
        with pytest.raises(BodyError):
            await sh(queue.put(object()))
    await sh(queue.put("not noted"))
    assert puts == [
        ("q", {"n": 1}, {"id": "one"}, first),
        ("q", 2, {"delay": 60}, second),
        ("q", 3, {"delay": 60}, third),
        ("q", 4, {"priority": "high"}, high),
        ("q.high", 5, {}, again),
    ]
    assert puts.bodies == [{"n": 1}, 2, 3, 4, 5]
    assert await sh.drain(queue) == [{"n": 1}, "not noted"]
    assert await sh.drain(queue.level("high")) == [4, 5]


async def test_instead(sh: Shell) -> None:
    """Without passing through nothing is sent, yet all is checked, and receipts are as ever."""
    queue = sh.Queue("q", "redis://127.0.0.1:1/0", levels=True, claim_check=1024)
    with capture(queue, passthrough=False) as puts:
        receipt = await sh(queue.put("x" * 2000, priority="low", replicas=2))
        await sh(queue.put_many([1, 2]))
        with pytest.raises(ConfigError):
            await sh(queue.put(1, delay=-1))
    assert len(receipt) == 32
    assert receipt.added
    assert puts.bodies == ["x" * 2000, 1, 2]
    with pytest.raises(reliq.Unavailable):
        await sh(queue.put(1))
    await sh.close(queue)


async def test_nested(sh: Shell) -> None:
    """Of two captures, one around the other, both note; of two queues, one block."""
    queue, other = sh.queue(), sh.queue("other")
    with capture(queue, other) as outer:
        with capture(queue, passthrough=False) as inner:
            await sh(queue.put(1))
        await sh(queue.put(2))
        await sh(other.put(3))
    assert (outer.bodies, inner.bodies) == ([1, 2, 3], [1])
    assert await sh.drain(queue) == [2]
    with pytest.raises(ConfigError, match="pass Queue objects"), capture("q"):
        pass
