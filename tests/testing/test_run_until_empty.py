"""``run_until_empty``: a real worker, and what it tells of it, in both shells."""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import reliq
from reliq import testing
from reliq.errors import ConfigError
from reliq.testing import DeadLettered, NotEmpty, Run, run_until_empty
from reliq.testing import aio as testing_aio
from tests.conformance.shell import Shell


async def empty(sh: Shell, *handlers: Any, **options: Any) -> Run:
    run = run_until_empty if sh.name == "sync" else testing_aio.run_until_empty
    result: Run = await sh(run(*handlers, **options))
    return result


async def test_all_is_handled(sh: Shell) -> None:
    """Plain and coroutine handlers of several queues, and what they put; a module stands for its own."""
    first, second = sh.queue("first", levels=True), sh.queue("second")
    seen: list[Any] = []

    def one(body: Any) -> None:
        seen.append(body)

    async def two(body: Any, lease: Any) -> None:
        seen.append(body)
        if body < 13:
            await sh(second.put(body + 1))

    module: Any = types.ModuleType("tasks")
    module.one, module.two = first.ack(one), second.ack(two)
    await sh(first.put_many([1, 2]))
    await sh(first.put(3, priority="high"))
    await sh(second.put(11))
    run = await empty(sh, module)
    assert sorted(seen) == [1, 2, 3, 11, 12, 13]
    assert (run.handled, run.failures, run.dead, tuple(run.left)) == (6, [], [], (0, 0, 0, 0))
    assert (await empty(sh, module)).handled == 0


async def test_options_of_the_worker(sh: Shell) -> None:
    """Several handlers of one queue count once; a lifespan gives them what they need."""
    queue, seen = sh.queue(route="kind"), list[Any]()

    @contextmanager
    def lifespan() -> Iterator[dict[str, Any]]:
        yield {"shop": "a shop"}

    @queue.ack(type="one")
    def one(body: Any, shop: reliq.Dependency[str]) -> None:
        seen.append(("one", shop))

    @queue.ack(type="two")
    def two(body: Any) -> None:
        seen.append("two")

    await sh(queue.put_many([{"kind": "one"}, {"kind": "two"}]))
    assert (await empty(sh, one, two, lifespan=lifespan)).handled == 2
    assert seen == [("one", "a shop"), "two"]


async def test_failures(sh: Shell) -> None:
    """Attempts that fail are told with their errors; the policy's own hooks hear of them, too; what is delayed, or
    waits for another attempt, stays."""
    heard: list[str] = []
    queue = sh.queue(retry=reliq.Retry(attempts=2, wait=100, on_retry=lambda failure: heard.append(failure.id)))

    @queue.ack
    def handle(body: Any) -> None:
        raise ValueError(body)

    id = await sh(queue.put("no"))
    await sh(queue.put("later", delay=100))
    run = await empty(sh, handle)
    assert [(f.id, f.body, repr(f.error), f.attempt) for f in run.failures] == [(id, "no", "ValueError('no')", 1)]
    assert (run.handled, run.retried, run.left.later) == (0, 1, 2)
    assert heard == [id]
    assert handle.retry is queue.options.retry


async def test_dead(sh: Shell) -> None:
    """A message that dies fails the test, which says of what, where, and how to expect it; older ones don't."""
    queue = sh.queue(retry=reliq.Retry(attempts=1))

    @queue.ack
    def handle(body: Any) -> None:
        if body == "old":
            raise reliq.Bury("an old one")
        raise ValueError(body)

    await sh(queue.put("old"))
    old = await empty(sh, handle, raise_on_dead=False)
    assert [(letter.cause, letter.error) for letter in old.dead] == [("BURIED", "an old one")]
    id = await sh(queue.put("new"))
    with pytest.raises(DeadLettered) as raised:
        await empty(sh, handle)
    assert f"1 message(s) became dead letters:\n- {id}: ATTEMPTS, ValueError: new\n" in str(raised.value)
    assert "test_run_until_empty.py" in str(raised.value)
    assert "raise ValueError(body)" in str(raised.value)
    assert "raise_on_dead=False" in str(raised.value)
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.run.left.dead == 2


async def test_no_end(sh: Shell) -> None:
    """A handler that always brings more, or hangs, ends the run when its time is over; nothing is lost by that."""
    queue, free = sh.queue(), threading.Event()

    @queue.ack
    async def again(body: Any) -> None:
        await sh(queue.put(body))

    await sh(queue.put(1))
    with pytest.raises(NotEmpty, match=r"after 0.3 s there is still something to do: 1 ready \(\d+ handled"):
        await empty(sh, again, timeout=0.3)

    @queue.ack
    def hang(body: Any) -> None:
        free.wait(20)

    with pytest.raises(NotEmpty, match="1 ready"):
        await empty(sh, hang, timeout=0.3)
    free.set()


@pytest.mark.parametrize("name", ["run_until_empty", "travel"])
def test_same_in_both_shells(name: str) -> None:
    """The same arguments; the one is awaited."""
    plain, awaited = getattr(testing, name), getattr(testing_aio, name)
    assert inspect.signature(plain) == inspect.signature(awaited)
    assert inspect.iscoroutinefunction(awaited)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"later": "never"}, "later='never'"), ({"timeout": 0}, "timeout=0"), ({}, "at least one")],
)
async def test_wrong(options: dict[str, Any], says: str) -> None:
    """What cannot be meant is refused before anything runs."""
    queue = reliq.Queue("q", "redis://127.0.0.1:1/0")
    handlers = [queue.ack(print)] if options else []
    with pytest.raises(ConfigError, match=says):
        run_until_empty(*handlers, **options)
    with pytest.raises(ConfigError, match=r"made with @q\.ack"):
        run_until_empty(print)  # type: ignore[arg-type]
