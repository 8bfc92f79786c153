"""Processes that a measurement starts, and always ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from scripts.bench.lab import await_

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """One program of child.py at work."""

    def __init__(self, program: str, **options: Any) -> None:
        words = [sys.executable, "-m", "scripts.bench.child", program, json.dumps(options)]
        self._process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the measured process ended with {self._process.returncode}")

    def result(self, timeout: float = 120) -> Any:
        """Wait for its end; what it says."""
        output, _ = self._process.communicate(timeout=timeout)
        if self._process.returncode:
            raise RuntimeError(f"the measured process ended with {self._process.returncode}")
        return json.loads(output)

    def stop(self) -> Any:
        """Have it stop in good order; what it says."""
        self._process.terminate()
        return self.result()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def await_idle(client: redis.Redis, consumers: int = 1) -> None:
    """Wait until so many consumers block in BLMOVE."""

    def blocked() -> bool:
        info: Any = client.info("clients")
        return bool(info["blocked_clients"] >= consumers)

    await_(blocked, within=15)
