"""What handlers in other processes did, line by line in a local file: the witness that is not Redis."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from reliq.sync.lease import Lease
from reliq.verify.finding import Broken

STARTED, DONE = "started", "done"


class Effect(NamedTuple):
    """A handler has started on a message, or is done with it. ``parent``: the supervisor's pid."""

    what: str
    id: str
    number: int
    fence: int
    pid: int
    parent: int


class Pen:
    """Writes effects. A line in a file opened for appending is never mixed with another process's."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, lease: Lease) -> None:
        """One line; it outlives this process."""
        line = (what, lease.id, lease.body["n"], lease.fence, os.getpid(), os.getppid())
        os.write(self._file, (" ".join(map(str, line)) + "\n").encode())


class Effects:
    """Reads them."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path

    def read(self) -> list[Effect]:
        """All that was done so far, in the order of writing."""
        found = []
        for line in self.path.read_text("ascii").splitlines():
            what, id, *numbers = line.split(" ")
            found.append(Effect(what, id, *map(int, numbers)))
        return found

    def done(self) -> set[str]:
        """The ids of messages that had their effect."""
        return {effect.id for effect in self.read() if effect.what == DONE}

    def at_work(self, parent: int) -> dict[int, set[str]]:
        """What the processes of this supervisor have in hand: pid and the ids started and not yet done."""
        hands: dict[int, set[str]] = {}
        for effect in self.read():
            if effect.parent == parent:
                hand = hands.setdefault(effect.pid, set())
                (hand.add if effect.what == STARTED else hand.discard)(effect.id)
        return hands


def judge(ids: Collection[str], effects: Sequence[Effect], killed: set[int]) -> int:
    """Check every message against what was done with it; returns how many were delivered again.

    None may be lost or unknown, fences have to grow, and only what was in the hands of a process that was
    ``killed`` may be delivered again. Raises Broken.
    """
    starts: dict[str, list[Effect]] = {id: [] for id in ids}
    for effect in effects:
        if effect.id not in starts:
            raise Broken(f"message {effect.id} was delivered, and nobody had put it")
        if effect.what == STARTED:
            starts[effect.id].append(effect)
    done = {effect.id for effect in effects if effect.what == DONE}
    if lost := [id for id in ids if id not in done]:
        raise Broken(f"{len(lost)} of {len(ids)} messages are lost; the first is {lost[0]}")
    again = 0
    for id, deliveries in starts.items():
        for before, after in pairwise(deliveries):
            again += 1
            if after.fence <= before.fence:
                raise Broken(f"message {id} came again with fence {after.fence} after {before.fence}")
            if before.pid not in killed:
                raise Broken(f"message {id} was delivered again, though process {before.pid} was not killed")
    return again
