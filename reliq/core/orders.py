"""Orders from afar: say how you are, claim no more, stop.

An order is one field in the record of a consumer. The consumer's next trip returns it (a trip without one is as
it always was), its shell does it beside the loop, writes the answer into the record, and the order is gone.
Whoever gave it looks for the answer for as long as the order holds, by the server's clock; so what nobody has
answered is not done later. An order moves no message, and no message ever waits for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple

import msgpack

from reliq.core import scripts
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys

REPORT, QUIET, STOP = "report", "quiet", "stop"
VERBS: Final = (REPORT, QUIET, STOP)
STACKS: Final = "stacks"
"""What a report may tell more of; or the id of the one message whose stack is wanted."""

#: Bounds of a report: messages in hand that are listed, and characters of all their stacks.
LISTED: Final = 100
STACK_CHARS: Final = 64_000

_STATUSES: Final = frozenset({b"given", b"joined", b"busy", b"expired", b"gone"})
_ORDER: Final = scripts.load("order", shape=(_STATUSES, int, bytes))
_ANSWER: Final = scripts.load("answer", shape=frozenset({0, 1}))


class Order(NamedTuple):
    """What a consumer is told to do, until when (server ms). ``about``: what else a report is to tell."""

    number: str
    until: int
    verb: str
    about: str = ""

    @classmethod
    def parse(cls, text: bytes) -> Order | None:
        """Read what the script wrote; None for anything else."""
        words = text.decode("utf-8", "replace").split(" ")
        if len(words) not in (3, 4) or not words[1].isdecimal() or words[2] not in VERBS:
            return None
        return cls(words[0], int(words[1]), *words[2:])


@dataclass(frozen=True)
class InHand:
    """A message that a handler has in hand: since when (server ms, if that is known), where its handler is, and
    whether that takes longer than it is expected to."""

    id: str
    since: int | None = None
    stack: str | None = None
    slow: bool = False


@dataclass(frozen=True)
class Report:
    """How a consumer and its process are, as they say themselves.

    ``at``: server ms; ``concurrency``: handlers at once in this process; ``in_hand``: those of this queue, the
    longest first, at most ``LISTED``; ``working``: how many there are; ``waiting``: claimed, and no handler has
    seen them; ``rtt_us``: of one round trip just now, as this process felt it; ``rss``: resident memory, bytes;
    ``refused``: why the order was not obeyed.
    """

    at: int
    host: str
    pid: int
    version: str
    python: str
    handler: str = ""
    concurrency: int = 0
    working: int = 0
    waiting: int = 0
    in_hand: tuple[InHand, ...] = ()
    quiet: bool = False
    stopping: bool = False
    rtt_us: int | None = None
    rss: int | None = None
    refused: str = ""

    def pack(self) -> bytes:
        """As it stands in Redis."""
        packed: bytes = msgpack.packb(asdict(self), unicode_errors="surrogatepass")
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Report | None:
        """Read what another process wrote, of whatever version; None for what is no report."""
        try:
            record = msgpack.unpackb(data)
            known = {each.name: record[each.name] for each in fields(cls) if each.name in record}
            known["in_hand"] = tuple(
                InHand(str(each["id"]), each.get("since"), each.get("stack"), each.get("slow") is True)
                for each in known.get("in_hand", ())
            )
            return cls(**known)
        except Exception:  # noqa: BLE001 - anybody may have written it, and msgpack raises a dozen types
            return None


def bounded(found: Iterable[InHand], about: str) -> tuple[InHand, ...]:
    """As much as a report may hold: the longest first, and stacks as far as there is room. That which the order
    asks about comes before all."""
    left, listed = STACK_CHARS, []
    in_order = sorted(found, key=lambda each: (each.id != about, each.since is None, each.since or 0))
    for each in in_order[:LISTED]:
        stack = each.stack and each.stack[-left:] if left > 0 else None
        left -= len(stack or "")
        listed.append(InHand(each.id, each.since, stack, each.slow))
    return tuple(listed)


class Answered(NamedTuple):
    """What became of an order. ``status``: waiting; answered (without a report: it has left, as it was told to);
    gone (no such consumer, or it has left); expired (its lease is over); busy (it has another order); silent (no
    answer in time)."""

    status: str
    report: Report | None = None


def give(keys: Keys, consumer: str, number: str, what: str, patience: float) -> Command:
    """Tell a consumer something; it holds for ``patience`` seconds. Parses to (status, number of the order that is
    there now)."""
    names = (keys.ready, keys.doing(consumer), keys.consumers, keys.session(consumer))
    args = (consumer, number, what, round(patience * 1000))
    return Command(_ORDER, names, args, lambda r: (r[0].decode(), r[2].decode()), True, keys.queue)


def answer(keys: Keys, consumer: str, number: str, report: Report) -> Command:
    """Say that an order is done. Parses to False if this name is dead or gone."""
    names = (keys.consumers, keys.session(consumer))
    args = (consumer, number, report.pack(), int(report.quiet))
    return Command(_ANSWER, names, args, lambda r: r == 1, True, keys.queue)


def _answer_of(keys: Keys, consumer: str) -> Command:
    """Parses to (number of the order that was answered last, the report, whether the consumer has left)."""

    def parse(reply: Any) -> tuple[str, Report | None, bool]:
        number, report, *gone = reply
        return (number or b"").decode("utf-8", "replace"), Report.unpack(report or b""), any(gone)

    names = ("answered", "report", "dead", "leaving")
    return Command("HMGET", (keys.session(consumer),), names, parse, True, keys.queue)


class Inquiry:
    """One order to some consumers of a queue, and their answers. Whoever runs it looks again after a pause, until
    it is ``done`` or the ``patience`` (seconds) is over, and then says ``end``."""

    def __init__(self, keys: Keys, consumers: Sequence[str], what: str, number: str, patience: float) -> None:
        self._keys, self._what, self._number = keys, what, number
        self._numbers: dict[str, str] = {}
        self.patience = patience
        self.answers = {name: Answered("busy") for name in consumers}

    @property
    def done(self) -> bool:
        """Whether nothing more is to be expected."""
        return not any(each.status in ("waiting", "busy") for each in self.answers.values())

    def step_g(self) -> Flow[None]:
        """Give the order to those who had another one until now, and see who has answered."""
        names = [name for name, each in self.answers.items() if each.status == "busy"]
        commands = [give(self._keys, name, self._number, self._what, self.patience) for name in names]
        for name, (status, number) in zip(names, all_of((yield commands)) if commands else (), strict=True):
            self._numbers[name] = number
            taken = status in ("given", "joined")
            self.answers[name] = Answered("waiting" if taken else status)
        names = [name for name, each in self.answers.items() if each.status == "waiting"]
        commands = [_answer_of(self._keys, name) for name in names]
        for name, (number, report, gone) in zip(names, all_of((yield commands)) if commands else (), strict=True):
            if number == self._numbers[name]:
                self.answers[name] = Answered("answered", report)
            elif gone:
                self.answers[name] = Answered("answered" if self._what == STOP else "gone")

    def end(self) -> dict[str, Answered]:
        """The answers; whoever is still waited for is silent."""
        for name, each in self.answers.items():
            if each.status == "waiting":
                self.answers[name] = Answered("silent")
        return self.answers
