"""What happened, written down by every process as it happens: JSON lines in one file, effects in SQLite beside it.

    {"op": "put", "state": "invoke", "ids": […], "mono": 12.3, "wall": …, "pid": 7, …}

op      put · claim · deliver · ack, retry, release, bury · reap, leave · trip · lost (the consumer was told so) ·
        fault, phase, order (written by the round itself)
state   invoke · ok · fail (certainly not executed) · unknown (sent, and no answer came)

Every line is one write to a file opened with O_APPEND, so lines of different processes never mix and what was
written survives the death of its writer. ``mono`` (CLOCK_MONOTONIC, seconds) is the same clock in all processes
of a machine; ``wall`` is what the process believes, and may be wrong by hours on purpose.

``record`` taps the library at seams that both shells share: ``ConsumerState.trip`` and ``answered`` (settles and
claims, with the server's own time), ``Queue._send`` and ``repeat`` (puts), and the answers of reap and leave.
A claim knows when it happened by the server's clock: exactly at ``ms``, or (``since``, ``ms``] if it was only
learnt from a repeated trip or from reading the list again.
"""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from reliq.aio.queue import Queue as AioQueue
from reliq.core import ops
from reliq.core.command import Command
from reliq.core.consumer import Answer, ConsumerState
from reliq.core.message import ACK, Message, Settle
from reliq.errors import OutcomeUnknown, PutManyError, Refused
from reliq.sync.queue import Queue

Event = dict[str, Any]


class History:
    """One file that many processes append to. A forked child may go on using it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, op: str, state: str, **fields: Any) -> None:
        """Write one event down."""
        event = {"op": op, "state": state, "mono": time.monotonic(), "wall": time.time(), "pid": os.getpid()}
        os.write(self._fd, json.dumps(event | fields, separators=(",", ":")).encode() + b"\n")

    def read(self) -> list[Event]:
        """Everything so far, of all processes, in the order of the common clock."""
        with self.path.open() as lines:
            return sorted(map(json.loads, lines), key=lambda event: event["mono"])

    def close(self) -> None:
        os.close(self._fd)


# -- effects ------------------------------------------------------------------------------------------------


class Effect(NamedTuple):
    """What one delivery did to the world, committed before its message could be acked."""

    id: str
    fence: int
    n: int
    pid: int
    mono: float


class Effects:
    """The world outside Redis: a SQLite file in WAL mode. One connection for each thread, none over a fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS effects (id, fence, n, pid, mono)")
            connection.commit()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30)  # a stopped process may hold the lock for a while
        connection.execute("PRAGMA synchronous=OFF")  # processes die here, not the machine
        return connection

    def add(self, id: str, fence: int, n: int) -> None:
        """Commit one effect."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        row = (id, fence, n, os.getpid(), time.monotonic())
        with self._local.connection as transaction:
            transaction.execute("INSERT INTO effects VALUES (?, ?, ?, ?, ?)", row)

    def read(self) -> list[Effect]:
        """All effects so far."""
        with closing(self._connect()) as connection:
            return [Effect(*row) for row in connection.execute("SELECT * FROM effects ORDER BY mono")]

    def count(self) -> int:
        """How many there are."""
        with closing(self._connect()) as connection:
            return int(connection.execute("SELECT count(*) FROM effects").fetchone()[0])


# -- taps into the library ----------------------------------------------------------------------------------


def record(history: History) -> None:
    """From now on this process (and what it forks) writes down what the library does."""
    _record_trips(history)
    _record_looks(history)
    for queue in (Queue, AioQueue):
        _record_puts(history, queue)
    _record_answers(history, "reap", _reap_fields)
    _record_answers(history, "leave", lambda gone: {"gone": gone})


class _Tap:
    """What is remembered about one ConsumerState between a trip and its answer."""

    def __init__(self) -> None:
        self.sends = 0
        self.claim: Event | None = None  # by which trip was claimed what is yet to be looked into
        self.last_ms: dict[str, int] = {}


def _record_trips(history: History) -> None:
    trip, answered = ConsumerState.trip, ConsumerState.answered

    def recorded_trip(self: ConsumerState, want: int, now: float) -> Command:
        tap, repeated = self.__dict__.setdefault("tap", _Tap()), self.unanswered
        command = trip(self, want, now)
        tap.sends = tap.sends + 1 if repeated else 1
        common = {"consumer": self.name, "trip": command.args[1]}
        if repeated:
            history.note("trip", "unknown", **common)
        else:
            for settle in [*map(_acked, self._acked), *self._sent]:
                history.note(settle.verb, "invoke", **_settle_fields(settle), **common)
            if command.args[5]:
                history.note("claim", "invoke", want=command.args[5], **common)
        return command

    def recorded_answered(self: ConsumerState, reply: list[Any], sent_at: float, *, look: bool = True) -> Answer:
        tap = self.__dict__.setdefault("tap", _Tap())
        outstanding: Any = self._outstanding
        common: Event = {"consumer": self.name, "trip": outstanding.args[1]}
        acked = self._acked
        tap.claim = None  # what it looks into itself is in the answer
        answer = answered(self, reply, sent_at, look=look)
        common |= {"ms": answer.server_ms, "since": tap.last_ms.get(self.name, 0), "status": answer.status}
        common["exact"] = answer.status == "ok" and not answer.reconciled
        tap.last_ms[self.name] = answer.server_ms
        told = {id(settle.message) for settle in answer.settled}
        for settle in [*answer.settled, *(_acked(message) for message in acked if id(message) not in told)]:
            history.note(settle.verb, _outcome(settle, answer, tap.sends), **_settle_fields(settle), **common)
        _note_claims(history, answer.messages, common)
        tap.claim = common
        for message in answer.lost:
            history.note("lost", "ok", id=message.envelope.id.hex(), fence=message.envelope.fence, **common)
        return answer

    ConsumerState.trip = recorded_trip  # type: ignore[method-assign]
    ConsumerState.answered = recorded_answered  # type: ignore[method-assign]


def _record_looks(history: History) -> None:
    """What an answer has left to be looked into was claimed by that trip."""
    take_in = ConsumerState.take_in

    def recorded_take_in(self: ConsumerState) -> list[Message]:
        tap, messages = self.__dict__.setdefault("tap", _Tap()), take_in(self)
        if tap.claim is not None:
            _note_claims(history, messages, tap.claim)
        return messages

    ConsumerState.take_in = recorded_take_in  # type: ignore[method-assign]


def _note_claims(history: History, messages: list[Message], common: Event) -> None:
    for message in messages:
        e = message.envelope
        history.note("claim", "ok", id=e.id.hex(), fence=e.fence, counters=_counters(e), **common)


def _acked(message: Message) -> Settle:
    """A bare ack, of which the answer tells only if it was refused."""
    settle = Settle(ACK, message)
    settle.accepted = True
    return settle


def _settle_fields(settle: Settle) -> Event:
    envelope = settle.message.envelope
    return {"id": envelope.id.hex(), "fence": envelope.fence}


def _counters(envelope: Any) -> Event:
    return {name: getattr(envelope, name) for name in ("failed", "released", "lost")}


def _outcome(settle: Settle, answer: Answer, sends: int) -> str:
    """A name that was declared dead refuses the repeat of a trip of which an earlier copy may have run."""
    if settle.accepted:
        return "ok"
    return "fail" if answer.status in ("ok", "again") or sends == 1 else "unknown"


@contextmanager
def _putting(history: History, ids: list[str], **more: Any) -> Iterator[None]:
    history.note("put", "invoke", ids=ids, **more)
    try:
        yield
    except Refused as error:
        history.note("put", "fail", ids=ids, error=error.code, **more)
        raise
    except OutcomeUnknown as error:
        history.note("put", "unknown", ids=ids, error=str(error)[:160], **more)
        raise
    history.note("put", "ok", ids=ids, **more)


def _record_puts(history: History, queue: Any) -> None:
    send, repeat = queue._send, queue.repeat
    if queue is Queue:

        @functools.wraps(send)
        def recorded_send(
            self: Any, ids: list[bytes], elements: Any, due: ops.Due, *more: Any, **named: Any
        ) -> Any:
            with _putting(history, [id.hex() for id in ids], due=due.how):
                return send(self, ids, elements, due, *more, **named)

        @functools.wraps(repeat)
        def recorded_repeat(self: Any, error: OutcomeUnknown | PutManyError) -> Any:
            with _putting(history, unknown_ids(error), repeat=True):
                return repeat(self, error)
    else:

        @functools.wraps(send)
        async def recorded_send(
            self: Any, ids: list[bytes], elements: Any, due: ops.Due, *more: Any, **named: Any
        ) -> Any:
            with _putting(history, [id.hex() for id in ids], due=due.how):
                return await send(self, ids, elements, due, *more, **named)

        @functools.wraps(repeat)
        async def recorded_repeat(self: Any, error: OutcomeUnknown | PutManyError) -> Any:
            with _putting(history, unknown_ids(error), repeat=True):
                return await repeat(self, error)

    queue._send, queue.repeat = recorded_send, recorded_repeat


def unknown_ids(error: OutcomeUnknown | PutManyError) -> list[str]:
    """The ids whose put may or may not have been executed."""
    return list(error.unknown if isinstance(error, PutManyError) else error.ids)


def _record_answers(history: History, name: str, fields: Callable[[Any], Event]) -> None:
    """Write down what the server answered to a command of ``ops`` that is about one consumer."""
    make = getattr(ops, name)

    def recorded(keys: Any, consumer: str, **options: Any) -> Command:
        command = make(keys, consumer, **options)
        parse = command.parse

        def read(reply: Any) -> Any:
            found = parse(reply)
            history.note(name, "ok", consumer=consumer, **fields(found))
            return found

        return command._replace(parse=read)

    setattr(ops, name, functools.wraps(make)(recorded))


def _reap_fields(found: ops.Reaped) -> Event:
    return {"status": found.status, "returned": found.returned, "buried": found.buried}
