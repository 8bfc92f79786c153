"""From whom puts come, as the server counts them, and what is known of one that was not answered."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reliq.core.beside import Beside
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.ops import NOTHING, NOW, Confirm, Due, Only, Series, put
from reliq.errors import OutcomeUnknown, PutManyError, Refused
from reliq.identity import process
from reliq.receipts import receipts_of

if TYPE_CHECKING:
    from reliq.core.lanes import Lane


class Producer:
    """A numbered series of puts, one at a time, by which the server recognises a repeat."""

    def __init__(self, keys: Keys) -> None:
        self.keys, self.name, self.sequence = keys, os.urandom(8), 0
        self._series = Series(keys, self.name)

    def put(
        self,
        elements: Sequence[bytes],
        due: Due,
        marker: str,
        confirm: Confirm,
        only: Only | None = None,
        *,
        lane: Lane | None = None,
    ) -> Command:
        """The next of the series."""
        self.sequence += 1
        is_plain = due is NOW and not (marker or lane) and confirm is NOTHING and only is None
        if is_plain and len(elements) == 1 and not isinstance(elements[0], Beside):
            return self._series.put(self.sequence, elements[0])
        return put(self.keys, self.name, self.sequence, elements, due, marker, confirm, only=only, lane=lane)


class Producers:
    """Idle producers. One whose put has an unknown outcome is not given back: its series is frozen."""

    def __init__(self, keys: Keys, make: Callable[[Keys], Producer] = Producer) -> None:
        self._keys, self._make = keys, make
        self._idle: deque[Producer] = deque()
        self._process = process()

    def take(self) -> Producer:
        """A producer that nobody else uses; never one that this process inherited by a fork."""
        if self._process is not process():
            self._idle, self._process = deque(), process()
        try:
            return self._idle.pop()
        except IndexError:
            return self._make(self._keys)

    def give_back(self, producer: Producer) -> None:
        self._idle.append(producer)


def partly(error: Refused | OutcomeUnknown, ids: Sequence[bytes], done: int, sent: int) -> PutManyError:
    """Which ids are in, which are not, which may be, when one chunk of several failed."""
    named = receipts_of(ids)
    unknown = named[done : done + sent] if isinstance(error, OutcomeUnknown) else []
    refused = named[done + len(unknown) :]
    return PutManyError(
        f"{done} of {len(named)} messages are in, {len(refused)} are not, {len(unknown)} may be: {error}",
        accepted=named[:done],
        refused=refused,
        unknown=unknown,
        replay=error.replay if isinstance(error, OutcomeUnknown) else None,
    )


def unknown_put(error: OutcomeUnknown, ids: Sequence[bytes], command: Command) -> OutcomeUnknown:
    """The error of a put without an answer: it carries what a repeat needs."""
    return OutcomeUnknown(
        f"{error} Give this error to queue.repeat() to send the same once more without a second copy.",
        ids=receipts_of(ids),
        replay=command,
    )


def replay_of(error: OutcomeUnknown | PutManyError) -> tuple[Command, list[str]]:
    """The put that such an error carries, and its ids."""
    ids = error.unknown if isinstance(error, PutManyError) else error.ids
    if not isinstance(error.replay, Command):
        raise ValueError("this error carries no put to repeat")
    return error.replay, ids
