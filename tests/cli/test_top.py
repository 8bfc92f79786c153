"""`reliq top`: in a real terminal (a pty), by its keys; and without one."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reliq.cli import top
from tests.cli.conftest import Commands, environment
from tests.servers import RedisServer

_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")

HANDLERS = """
import time
from pathlib import Path
import reliq

q = reliq.Queue("emails")

@q.ack
def send(body):
    while not Path("go").exists():
        time.sleep(0.02)
"""


class Terminal:
    """A terminal of 160 columns with `reliq top` in it."""

    def __init__(self, commands: Commands, folder: Path, *words: str) -> None:
        self.main, self._other = pty.openpty()
        fcntl.ioctl(self._other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.before = termios.tcgetattr(self._other)
        all_words = [
            sys.executable,
            "-m",
            "reliq",
            "top",
            *words,
            "--url",
            commands.url,
            "--prefix",
            commands.prefix,
        ]
        self.process = subprocess.Popen(
            all_words, stdin=self._other, stdout=self._other, stderr=self._other, cwd=folder,
            env=environment(TERM="xterm-256color"), start_new_session=True,
        )  # fmt: skip
        self.raw = b""

    def until(self, words: str, seconds: float = 20.0) -> str:
        """Read until these words are on the screen; all that came since the last time."""
        deadline, seen = time.monotonic() + seconds, b""
        while words not in (screen := _CONTROL.sub(b"", seen).decode("utf-8", "replace")):
            left = deadline - time.monotonic()
            assert left > 0, f"never showed {words!r}: {screen[-3000:]}"
            if select.select([self.main], [], [], left)[0]:
                read = os.read(self.main, 65536)
                seen += read
                self.raw += read
        return screen

    def press(self, keys: bytes) -> None:
        os.write(self.main, keys)

    def ends(self) -> int:
        """Its exit status; the terminal is as it was."""
        deadline = time.monotonic() + 15
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self.main], [], [], 0.05)[0]:
                self.raw += os.read(self.main, 65536)
        assert termios.tcgetattr(self._other) == self.before
        while select.select([self.main], [], [], 0.05)[0]:
            self.raw += os.read(self.main, 65536)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self.main)
        os.close(self._other)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open(commands: Commands, *words: str) -> Terminal:
        opened.append(Terminal(commands, tmp_path, *words))
        return opened[-1]

    yield open
    for each in opened:
        each.close()


def test_down_to_the_stack_and_back(commands: Commands, terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """Queues, the workers of the chosen one, what one has in hand and where it is, and back; q ends with status 0,
    and the terminal has its screen and its settings again."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with commands.queue("archive") as other, commands.queue("emails") as queue:
        other.put(1)
        ids = queue.put_many(range(3))
        commands.session = True
        worker = commands.start("worker", "handlers:send", "--concurrency", "2")
        try:
            seen = terminal(commands, "--interval", "0.3")
            seen.until("Next: start one: reliq worker")
            for words in (b"archive", b"emails", b"NO_CONSUMERS: 1 message to do"):
                assert words in seen.raw
            seen.press(b"\x1b[B")  # the second queue
            seen.press(b"\r")
            seen.until("workers of emails")
            screen = seen.until("handlers.send")
            assert "live" in screen
            seen.press(b"l")
            seen.until("in the hands of")
            screen = seen.until(f"{ids[0]} is here:")
            assert "in send" in screen or "in send" in seen.until("in send")
            seen.press(b"j")
            seen.until(f"{ids[1]} is here:")
            seen.press(b"\x1b")
            seen.until("workers of emails")
            seen.press(b"h")
            seen.until("Next: start one: reliq worker")
            seen.press(b"q")
            assert seen.ends() == 0
            assert b"\x1b[?1049h" in seen.raw
            assert seen.raw.rindex(b"\x1b[?1049l") > seen.raw.rindex(b"\x1b[?1049h")
        finally:
            (tmp_path / "go").touch()
            os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(commands: Commands, terminal: Callable[..., Terminal], number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM are no fault either, and leave the terminal as it was."""
    with commands.queue("emails") as queue:
        queue.put(1)
    seen = terminal(commands)
    seen.until("NO_CONSUMERS")
    seen.process.send_signal(number)
    assert seen.ends() == 0


def test_redis_goes_away(own: Commands, own_server: RedisServer, terminal: Callable[..., Terminal]) -> None:
    """What was seen last stays, with the reason; and it goes on when Redis is back."""
    with own.queue("emails") as queue:
        queue.put(1)
        seen = terminal(own, "--interval", "0.3")
        seen.until("1 message to do")
        own_server.kill()
        seen.until("This is what was seen last", 40.0)
        own_server.start()
        queue.put(2)
        seen.until("2 messages to do", 40.0)
        seen.press(b"q")
        assert seen.ends() == 0


def test_without_a_terminal(commands: Commands) -> None:
    """That is said, with what to do instead; --once shows the queues, and its status is that of `reliq status`."""
    with commands.queue("emails") as queue:
        result = commands.process("top")
        assert result.status == 2
        assert "reliq top needs a terminal; without one: reliq top --once" in result.error
        assert commands.process("top", "--once").status == 0
        queue.put(1)
        result = commands.process("top", "--once", COLUMNS="160")
        assert result.status == 1
        assert "emails: NO_CONSUMERS. Next: start one: reliq worker MODULE:HANDLER" in result.out
        assert "\x1b" not in result.out
        document = commands("top", "--once", "--json").json
        (entry,) = document["queues"]
        (same,) = commands("status", "--json").json["queues"]
        entry["oldest_ms"] = same["oldest_ms"]
        assert entry == same
        assert document["attention"] is True


def test_a_document_for_each_look(commands: Commands) -> None:
    """One line each, with rates from the second one on; Ctrl-C ends it with status 0."""
    with commands.queue("emails") as queue:
        queue.put(1)
        process = commands.start("top", "--json", "--interval", "0.5")
        assert process.stdout is not None
        first: dict[str, Any] = json.loads(process.stdout.readline())
        queue.put_many(range(4))
        rates, waited = None, time.monotonic() + 20
        while not rates or not rates["in"]:
            assert time.monotonic() < waited
            document = json.loads(process.stdout.readline())
            rates = document["queues"][0]["rates"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert (first["schema"], first["queues"][0]["rates"]) == (1, None)
    assert document["at"] > first["at"]
    assert rates["in"] * rates["over_ms"] == pytest.approx(4000)
    assert process.returncode == 0


def test_without_rich(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra; --json does not need it."""
    with commands.queue("emails"):
        pass
    monkeypatch.setitem(sys.modules, "rich", None)
    result = commands("top")
    assert result.status == 2
    assert "pip install 'reliq[top]'" in result.error
    assert commands("top", "--json", "--once").status == 0


def test_keys() -> None:
    """As terminals send them, also in application mode and several at once; what means nothing is passed over."""
    assert list(top.pressed(b"\x1b[A\x1bOBjk\x1b[C\r\x7f\x1b[Zxq\x1b")) == [
        *("up", "down", "down", "up", "in", "in", "out", "quit", "out"),
    ]


def test_a_narrow_terminal() -> None:
    """Numbers and their heads stay whole at 80 columns; what is told wraps."""
    from rich.console import Console

    heads = ("queue", "ready", "doing", "later", "dead", "oldest", "in/s", "out/s", "failing", "live", "how it is")
    row = ("emails", "1,000", "8", "0", "0", "7.1 s", "?", "?", "?", "1", "at work; how fast is not known yet")
    console = Console(width=80)
    with console.capture() as capture:
        console.print(top.draw(top.Page("queues", heads, [row], ["emails"], []), -1, "here"))
    lines = capture.get().splitlines()
    assert " ".join(heads) in [" ".join(line.split()) for line in lines]
    assert any("emails" in line and "1,000" in line and "7.1 s" in line for line in lines)


def test_what_comes_from_redis_is_not_obeyed() -> None:
    """Neither as markup nor as control characters."""
    from rich.console import Console

    page = top.Page("a[b]", ("queue",), [("[red]x\x1b[2J\n",)], ["x"], ["\x07[bold]"])
    console = Console(width=80)
    with console.capture() as capture:
        console.print(top.draw(page, 0, "here"))
    shown = capture.get()
    assert "[red]x\\x1b[2J\\n" in shown
    assert "\\x07[bold]" in shown
    assert "\x1b[2J" not in shown
