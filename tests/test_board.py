"""What a supervisor reads of a process that goes on writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter

from reliq.sync.board import Board, SlotView

ONE, TWO = b"a" * 16, b"b" * 16


def scribble(board: Board) -> None:
    """One message with a timeout and a pair without, in turn."""
    while True:
        board.start(0, 7, ONE, 1e6, 30.0)
        board.finish(0)
        board.start(0, 8, TWO + TWO, 2e6, None)
        board.finish(0)


def watch(looks: int) -> Counter[tuple[SlotView, ...]]:
    """What stands on a board on which another process scribbles, at so many looks."""
    board = Board(1, 1, 2)
    if not (pid := os.fork()):
        scribble(board)
    try:
        return Counter(tuple(board.slots()) for _ in range(looks))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_board_is_never_seen_half_written() -> None:
    """Another start with this timeout would be a handler that hangs, and its process would be killed for it."""
    program = "from tests.test_board import watch; print(*map(repr, watch(100_000)), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    one, two = SlotView(7, ONE, 1e6, 30.0), SlotView(8, TWO, 2e6, None)
    assert set(done.stdout.splitlines()) == {repr(()), repr((one,)), repr((two, two))}
