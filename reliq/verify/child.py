"""Our own subprocesses: started, told, killed and stopped by their pid, and never anybody else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from reliq.errors import ReliqError
from reliq.verify.finding import Skipped
from reliq.verify.puppet import SETTINGS

#: Seconds to start a Python and connect, on a machine that has other work too.
_STARTS_WITHIN: Final = 30.0


class Child:
    """A process that runs ``puppet``. It leads a group of its own, so that Ctrl-C at the terminal reaches only us.

    ``settings``: see there. ``url`` may hold a password, so it goes through the environment.
    """

    def __init__(self, url: str, settings: Mapping[str, Any], log: Path) -> None:
        self._log = log
        paths = [os.path.abspath(path) for path in sys.path]  # the modules from where ours come from
        code = f"import sys; sys.path[:] = {paths!r}; from reliq.verify.puppet import main; main()"
        try:
            with log.open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    env={**os.environ, "RELIQ_URL": url, SETTINGS: json.dumps(settings)},
                    cwd=log.parent,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                )
        except OSError as error:
            raise Skipped(
                f"no process can be started here: {error}", "run it where there is room for one"
            ) from error
        self.pid = self._process.pid
        self._answers: SimpleQueue[str] = SimpleQueue()
        self._listener = threading.Thread(target=self._listen, name="reliq-verify-child", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)

    # -- what it is told --------------------------------------------------------------------------------

    def tell(self, order: str, **arguments: Any) -> None:
        """Give an order without waiting for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": order, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed("takes no orders any more") from error

    def answer(self, within: float = _STARTS_WITHIN) -> dict[str, Any]:
        """The next answer; ``within`` seconds."""
        try:
            found: dict[str, Any] = json.loads(self._answers.get(timeout=within))
        except Empty:
            raise self._failed(f"gave no answer within {within:.0f} s") from None
        if "error" in found:
            raise self._failed(f"said {found['error']}: {found['text']}")
        return found

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self.tell(order, **arguments)
        return self.answer()

    # -- what is done to it -----------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Only while it is ours: a pid is not given to anybody else before we have waited for it."""
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def wait(self, within: float) -> int:
        """Its exit status; raises if it does not end ``within`` seconds."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise self._failed(f"did not end within {within:.0f} s") from None

    def end(self) -> None:
        """Make sure that nothing is left of it, nor of its own children."""
        if self.alive:
            self.signal(signal.SIGCONT)
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._listener.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def last_words(self) -> str:
        """The end of what it said on stderr."""
        lines = self._log.read_text(errors="replace").splitlines()[-3:]
        return " | ".join(lines) or "nothing"

    def _failed(self, how: str) -> ReliqError:
        return ReliqError(f"a process of reliq verify {how}; its last words: {self.last_words()}")
