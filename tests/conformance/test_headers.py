"""Headers: texts that a put writes beside the body, and handlers and middleware read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import reliq
from reliq.errors import ConfigError
from reliq.middleware import Delivery, Put
from tests.conformance.shell import Shell

SAID = {"request": "7f3", "lang": "日本"}


async def test_they_come_with_the_message(sh: Shell) -> None:
    """To each attempt, of one put or many, also exclusively; without any there are none."""
    q = sh.queue(retry=reliq.Retry(attempts=2, wait=0))
    await sh(q.put(1, headers=SAID))
    await sh(q.put_many([2, 3], headers={"a": ""}))
    await sh(q.put(4))
    seen: list[Any] = []
    async with sh.open(q.consumer(until_empty=True)) as c:
        async for lease in sh.each(c):
            seen.append((lease.body, lease.attempt, lease.headers))
            await sh(lease.retry(delay=0) if lease.body == 1 and lease.attempt == 1 else lease.ack())
    assert sorted(seen, key=str) == [
        (1, 1, SAID), (1, 2, SAID), (2, 1, {"a": ""}), (3, 1, {"a": ""}), (4, 1, {}),
    ]  # fmt: skip
    await sh(q.put(5, headers=SAID))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                assert [message.headers for message in batch.messages] == [SAID]


async def test_middleware_writes_and_reads_them(sh: Shell) -> None:
    """A request id from the put to the handler, without a word in either."""

    class Request:
        seen: str | None = None

        def before_put(self, put: Put) -> Put:
            return Put(put.queue, put.bodies, {**put.options, "headers": {"request": "7f3"}})

        def handle(self, delivery: Delivery, call_next: Callable[[], Any]) -> Any:
            self.seen = delivery.headers["request"]
            return call_next()

    through = Request()
    q = sh.queue(middleware=[through])

    @q.ack
    def handle(body: int) -> None:
        assert body == 1

    await sh(q.put(1))
    await sh(sh.Worker(handle, middleware=[through], until_empty=True, signals=False).run())
    assert through.seen == "7f3"


@pytest.mark.parametrize("wrong", [5, "a", {"a": 1}, {1: "a"}, {"a": "x" * 5000}, {"a": "\ud800"}])
async def test_what_cannot_be_one(sh: Shell, wrong: Any) -> None:
    """Is told before anything is put."""
    q = sh.queue()
    with pytest.raises(ConfigError, match="headers"):
        await sh(q.put(1, headers=wrong))
    assert (await sh(q.size())).ready == 0


async def test_explain_tells_what_a_put_has_said(sh: Shell) -> None:
    """Its headers, and with which others it waits."""
    q = sh.queue()
    first = await sh(q.put(1, headers=SAID, ordering_key="k", tenant="acme"))
    second = await sh(q.put(2, group="g"))
    found = [await sh(q.explain(id)) for id in (first, second)]
    assert [(each.headers, each.ordering_key, each.tenant, each.group) for each in found] == [
        (SAID, "k", "acme", None), (None, None, None, "g"),
    ]  # fmt: skip
