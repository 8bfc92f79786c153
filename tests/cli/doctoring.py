"""What the tests of `reliq doctor` share: reading its report, and a worker that was seen to work."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reliq
from tests.cli.conftest import Commands, Result


def wrong(result: Result) -> dict[str, str]:
    """code → severity of all that is not well, notes aside."""
    return {
        entry["code"]: entry["severity"]
        for entry in result.json["checks"]
        if entry["severity"] not in ("ok", "info")
    }


def notes(result: Result) -> set[str]:
    return {entry["code"] for entry in result.json["checks"] if entry["severity"] == "info"}


def found(result: Result, code: str) -> list[dict[str, str]]:
    """What the report says under this code."""
    return [entry for entry in result.json["checks"] if entry["code"] == code]


@contextlib.contextmanager
def worker_on(commands: Commands, name: str = "emails", **options: Any) -> Iterator[reliq.Queue]:
    """A worker that handles what is put; it was seen to work."""
    handled = threading.Event()
    with commands.queue(name, **options) as queue:
        worker = reliq.Worker(queue.ack(lambda body: handled.set()), signals=False)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            queue.put({"to": "ada@example.org"})
            assert handled.wait(20)
            yield queue
        finally:
            worker.stop()
            thread.join()


def wait_until(holds: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.05)
