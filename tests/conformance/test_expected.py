"""A handler that takes longer than expected is told of, once, with its stack, and goes on; in both shells."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from typing import Any

import pytest

from reliq import defaults
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, until
from tests.conformance.test_worker import KINDS, at_work


def slow_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "(expected=)" in record.getMessage()]


@KINDS
@pytest.mark.parametrize("takes", ["body", "lease"])
async def test_it_is_told_once_with_its_stack(
    sh: Shell, kind: str, takes: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line says which handler, which message, how long, and where it is; the message is not given up."""
    q = sh.queue(lease=3)
    gate, done = threading.Event(), []

    def stands_here(body: Any) -> None:
        gate.wait(20)
        done.append(body)

    async def waits_here(body: Any) -> None:
        while not gate.is_set():  # noqa: ASYNC110 - it is set by another thread
            await asyncio.sleep(0.02)
        done.append(body)

    def plain(body: Any, lease: Any) -> None:
        stands_here(body)

    async def coroutine(body: Any, lease: Any) -> None:
        await waits_here(body)

    functions = {("plain", "body"): stands_here, ("plain", "lease"): plain}
    functions |= {("coroutine", "body"): waits_here, ("coroutine", "lease"): coroutine}
    id = await sh(q.put("slow"))
    async with at_work(sh, sh.Worker(q.ack(functions[kind, takes], expected=0.3), signals=False)):
        assert await until(lambda: slow_lines(caplog))
        await asyncio.sleep(1.5)  # time enough to say it again
        gate.set()
        assert await until(lambda: done)
    [line] = slow_lines(caplog)
    text = line.getMessage()
    assert ("stands_here" if kind == "plain" else "waits_here") in text
    assert f"message {id} in hand for" in text
    assert "is expected to take 0.3 s" in text
    assert (line.levelname, line.id, line.queue, line.attempt) == ("WARNING", id, "q", 1)  # type: ignore[attr-defined]
    assert done == ["slow"]
    assert sum(await sh(q.size())) == 0


async def test_quick_ones_are_not_told_of(sh: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """However many."""
    q = sh.queue()
    await sh(q.put_many(range(50)))
    worker = sh.Worker(q.ack(lambda body: None, expected=5), until_empty=True, signals=False)
    await sh.start(worker.run)
    assert slow_lines(caplog) == []


async def test_what_is_expected_if_nothing_is_said(sh: Shell) -> None:
    """A minute; with a timeout that tells itself, nothing besides."""
    q = sh.queue()
    assert q.ack(print).expected == defaults.EXPECTED
    assert q.ack(print, timeout=5).expected == math.inf
    assert q.ack(print, timeout=5, expected=2).expected == 2
    for wrong in (0, -1, "much"):
        with pytest.raises(ConfigError, match="seconds above 0"):
            q.ack(print, expected=wrong)
