"""What a supervisor reads of a process that goes on writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

from reliq.sync.board import Board, SlotView, StationView

ONE, TWO = b"a" * 16, b"b" * 16


def scribble(board: Board) -> None:
    """One message with a timeout and a pair without, in turn."""
    while True:
        board.start(0, 7, ONE, 1e6, 30.0)
        board.finish(0)
        board.start(0, 8, TWO + TWO, 2e6, None)
        board.finish(0)


def confirm(board: Board) -> None:
    """The lease of one consumer, again and again."""
    while True:
        board.show_station(0, "me", 42, 1e6)
        board.show_station(0, "me", 42, 2e6)


def watch(looks: int, write: Callable[[Board], None], look: Callable[[Board], object]) -> Counter[str]:
    """What stands on a board on which another process writes, at so many looks."""
    board = Board(1, 1, 2)
    board.show_station(0, "me", 42, 1e6)
    if not (pid := os.fork()):
        write(board)
    try:
        return Counter(repr(look(board)) for _ in range(looks))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def seen(write: str, look: str) -> set[str]:
    """The same by a process of its own, which has no other threads."""
    program = f"from tests.test_board import *; print(*watch(100_000, {write}, {look}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.splitlines())


def test_a_slot_is_never_seen_half_written() -> None:
    """Another start with this timeout would be a handler that hangs, and its process would be killed for it."""
    one, two = SlotView(7, ONE, 1e6, 30.0), SlotView(8, TWO, 2e6, None)
    assert seen("scribble", "Board.slots") == {repr([]), repr([one]), repr([two, two])}


def test_a_name_is_written_once() -> None:
    """A process that was killed while it wrote it again would not be known by it: its lease would have to end."""
    views = [{0: StationView("me", 42, at)} for at in (1e6, 2e6)]
    assert seen("confirm", "Board.stations") == set(map(repr, views))


def test_a_place_is_used_again() -> None:
    """Of a process that was started anew, or of a queue that said goodbye."""
    board = Board(1, 1)
    for forget in (board.clear, lambda: board.hide_station(0)):
        board.show_station(0, "me", 42, 1.0)
        forget()
        assert board.stations() == {}
        board.show_station(0, "me", 42, 2.0)
        assert board.stations() == {0: StationView("me", 42, 2.0)}
        board.show_station(0, "me too", 43, 3.0)
        assert board.stations() == {0: StationView("me too", 43, 3.0)}
