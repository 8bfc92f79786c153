"""Worker processes for fault tests: started, hurt, watched and ended by pid; and what they did."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import reliq
from reliq.core import ledger
from reliq.core.command import Command

PROGRAM = (sys.executable, "-m", "tests.faults.program")


def wait_until(true: Callable[[], Any], timeout: float, what: str, every: float = 0.02) -> Any:
    """Wait for a condition; its value, or an error that says what did not come."""
    deadline = time.monotonic() + timeout
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(every)


class WorkerProcess:
    """One `python -m tests.faults.program`: a worker, or a supervisor with children."""

    def __init__(self, settings: dict[str, Any], folder: Path, program: Sequence[str] = PROGRAM) -> None:
        self.log_path = folder / f"worker-{time.monotonic_ns()}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, json.dumps(settings)],
                cwd=Path(__file__).parents[2],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self.process.pid

    def children(self) -> list[int]:
        """Pids of the worker processes of a supervisor."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        os.kill(self.pid, number)

    def end(self, timeout: float = 15.0) -> int:
        """SIGTERM and the exit status; killed if it does not end."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            for pid in [*self.children(), self.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(5)
            raise AssertionError(f"did not end within {timeout} s:\n{self.log()[-4000:]}") from None

    def log(self) -> str:
        """What it wrote."""
        return self.log_path.read_text(errors="replace")


class Lab:
    """A queue on a server, the workers on it, and the effects of their handlers."""

    def __init__(self, url: str, prefix: str, folder: Path, **queue: Any) -> None:
        self.url, self.prefix, self.folder = url, prefix, folder
        self.queue_options = queue
        self.queue = reliq.Queue("work", url, prefix=prefix, **queue)
        self.effects_path = folder / "effects.jsonl"
        self.workers: list[WorkerProcess] = []

    def start(self, *, url: str | None = None, supervise: bool = False, timeout: float | None = None,
              type: str | None = None, batch: int | None = None, wait: float = 0.0, once: str | None = None,
              program: Sequence[str] = PROGRAM, **worker: Any) -> WorkerProcess:  # fmt: skip
        """Start a worker process (a supervisor if told so)."""
        settings = {"url": url or self.url, "prefix": self.prefix, "queue": self.queue_options}
        settings |= {
            "effects": str(self.effects_path),
            "supervise": supervise,
            "timeout": timeout,
            "type": type,
            "batch": batch,
            "wait": wait,
            "once": once,
            "worker": worker,
        }
        started = WorkerProcess(settings, self.folder, program)
        self.workers.append(started)
        return started

    def effects(self) -> list[dict[str, Any]]:
        """What handlers did, in order of writing."""
        if not self.effects_path.exists():
            return []
        with self.effects_path.open() as lines:
            return [json.loads(line) for line in lines]

    def count(self) -> Counter[int]:
        """How often each n was handled."""
        return Counter(effect["n"] for effect in self.effects())

    def events(self) -> list[dict[str, Any]]:
        """The ledger: every abnormal event, with the server's time in ms under "ms"."""
        raw = self.queue.links.insist(Command("XRANGE", (self.queue.options.keys.events,), ("-", "+")))
        return [event | {"ms": event["at"]} for event in ledger.read(raw)]

    def at_rest(self) -> bool:
        """Nothing ready, in hand or later."""
        size = self.queue.size()
        return size.ready + size.doing + size.later == 0

    def drained(self, timeout: float) -> None:
        """Wait until everything is settled."""
        wait_until(self.at_rest, timeout, f"drained (now {self.queue.size()})", every=0.05)

    def close(self) -> None:
        """End what still runs; show the logs if that fails."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.end()
        self.queue.close()


@contextlib.contextmanager
def lab(server: Any, prefix: str, **queue: Any) -> Iterator[Lab]:
    """A lab in a folder of its own, cleaned up at the end."""
    with tempfile.TemporaryDirectory() as folder:
        made = Lab(server.url, prefix, Path(folder), **queue)
        try:
            yield made
        except BaseException:
            for worker in made.workers:
                print(f"--- {worker.log_path.name}\n{worker.log()[-3000:]}")
            raise
        finally:
            made.close()
