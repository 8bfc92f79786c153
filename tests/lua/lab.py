"""What the tests of the scripts share: run a Command on a real server, build a trip by hand, look at all keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import redis as redis_py

from reliq.core import beside, ledger, ops, scripts
from reliq.core import envelope as env
from reliq.core.beside import Beside
from reliq.core.codec import CODECS
from reliq.core.command import Arg, Command
from reliq.core.consumer import Answer, ConsumerState
from reliq.core.keys import Keys
from reliq.core.message import Settle

BELL = b"\xc1rlq\x00"
PART = 256 * 1024  # the byte budget of one call


def element(number: int, body: Any = None, meta: env.Meta | None = None, **counters: int) -> bytes:
    """An envelope with an id and a body of its own."""
    id = env.uuid7(1_700_000_000_000, number.to_bytes(10, "big"))
    return env.pack(id, msgpack.packb(number if body is None else body), meta or {}, **counters)


def large(keys: Keys, number: int, size: int = 100_000, **counters: int) -> Beside:
    """The element of a message whose body, so many bytes, lies beside the list."""
    id, name = (env.uuid7(1_700_000_000_000, n.to_bytes(10, "big")) for n in (number, number + 1_000_000))
    body = msgpack.packb(bytes([number % 256]) * (size - 5))
    return beside.checked(env.pack(id, b"", {"b": beside.ticket(name, body)}, **counters), keys.body(name), body)


def drop(element: Beside) -> tuple[str, str, str, str]:
    """What goes with the ack of a large one."""
    return "drop", element[env.CHECKED_FROM : env.META_FROM].hex(), element.key, ""


def number_of(data: bytes) -> int:
    """The number that element() or a raw JSON body was made from."""
    if not env.is_envelope(data):
        return int(data)
    envelope = env.unpack(data)
    return int(envelope.body) if envelope.meta.get("r") else int(msgpack.unpackb(envelope.body))


class Lab:
    """One queue on a real server, and the scripts as plain calls."""

    def __init__(self, client: redis_py.Redis, prefix: str, queue: str = "q") -> None:
        self.client: Any = client
        self.keys = Keys(queue, prefix)

    # -- running ----------------------------------------------------------------------------------------

    def reply(self, command: Command) -> Any:
        """The reply as Redis gives it."""
        try:
            return self.client.execute_command(*command.words())
        except redis_py.exceptions.NoScriptError:
            return self.client.execute_command(*command.source_words())

    def run(self, command: Command) -> Any:
        """The reply as the command reads it."""
        return command.read(self.reply(command))

    def trip(self, name: str, number: int, **options: Any) -> list[Any]:
        """One trip by hand; the options are those of trip_command."""
        reply: list[Any] = self.reply(self.trip_command(name, number, **options))
        return reply

    def trip_command(
        self,
        name: str,
        number: int,
        *,
        want: int = 0,
        acks: Sequence[bytes] = (),
        by_number: bool = False,
        settles: Sequence[tuple[str, Arg, Arg, Arg]] = (),
        lease: int = 15_000,
        epoch: str = "0",
        in_hand: int = 0,
        mode: str = "alone",
        promote: int = 100,
        budget: int = PART,
        server: str = "",
        who: str = "",
        also: Sequence[str] = (),
    ) -> Command:
        k = self.keys
        args: list[Arg] = [name, number, lease, epoch, in_hand, want, mode, promote, budget, server, who]
        args += [-len(acks), acks[0], acks[-1]] if by_number else [len(acks), *acks]
        args += [*(word for settle in settles for word in settle)]
        names = (k.ready, k.inbox(name), k.doing(name), k.consumers, k.session(name), k.later, k.dead)
        bodies = [str(back) for verb, _, back, _ in settles if verb == "drop"]
        names += (k.events, k.stats, k.uniques, k.lanes, k.turns, k.traces, *bodies, *also)
        return Command(scripts.trip, names, tuple(args))

    def reap(self, name: str, **options: Any) -> ops.Reaped:
        """Reap once, as a caller who saw the process die unless dead=False."""
        reaped: ops.Reaped = self.run(ops.reap(self.keys, name, **({"dead": True} | options)))
        return reaped

    def small_reap(self, name: str, elements: int = 1000, size: int = PART) -> ops.Reaped:
        """One call of a reap with limits of its own."""
        command = ops.reap(self.keys, name, dead=True)
        args = (*command.args[:5], elements, size, *command.args[7:])
        reaped: ops.Reaped = self.run(command._replace(args=args))
        return reaped

    def put(self, *elements: bytes, sequence: int = 0, producer: bytes = b"p", **options: Any) -> bool:
        """Accept elements by the script; without a sequence, by a producer of its own. What goes beside the list
        is brought first."""
        for each in elements:
            if isinstance(each, Beside):
                self.run(beside.bring(each, self.keys.queue))
        if not sequence:
            producer, sequence = b"%d" % self.client.incr(self.keys.prefix + ":count"), 1
        accepted: bool = self.run(ops.put(self.keys, producer, sequence, elements, **options))
        return accepted

    def put_large(self, number: int, size: int = 100_000, **options: Any) -> Beside:
        """Accept a large one; its element."""
        element = large(self.keys, number, size)
        assert self.put(element, **options)
        return element

    def push(self, *elements: bytes) -> None:
        """What a foreign producer does."""
        self.client.lpush(self.keys.ready, *elements)

    def bell(self, name: str) -> None:
        """What a BLMOVE brings when there is something."""
        self.client.lmove(self.keys.ready, self.keys.inbox(name), "RIGHT", "RIGHT")

    def expire(self, name: str, ago: int = 1) -> None:
        """End a consumer's lease, so many ms ago."""
        self.client.zadd(self.keys.consumers, {name: self.now() - ago})

    # -- looking ----------------------------------------------------------------------------------------

    def now(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def list(self, key: str) -> list[bytes]:
        found: list[bytes] = self.client.lrange(key, 0, -1)
        return found

    @property
    def ready(self) -> list[bytes]:
        """The ready list, its head (the next to be claimed) first."""
        return self.list(self.keys.ready)[::-1]

    @property
    def uniques(self) -> dict[str, str]:
        """What the queue knows of unique messages."""
        return {k.decode(): v.decode() for k, v in self.client.hgetall(self.keys.uniques).items()}

    @property
    def bodies(self) -> dict[str, bytes]:
        """What lies beside the list to stay, by key."""
        found = self.client.scan_iter(match=self.keys.body(b"") + "*", count=1000)
        return {key.decode(): self.client.get(key) for key in found if self.client.ttl(key) == -1}

    def doing(self, name: str) -> list[bytes]:
        return self.list(self.keys.doing(name))

    def inbox(self, name: str) -> list[bytes]:
        return self.list(self.keys.inbox(name))

    @property
    def later(self) -> list[bytes]:
        found: list[bytes] = self.client.zrange(self.keys.later, 0, -1)
        return found

    @property
    def dead(self) -> list[tuple[dict[str, Any], bytes]]:
        return [env.split_note(member) for member in self.client.zrange(self.keys.dead, 0, -1)]

    def events(self) -> list[tuple[str, str, str]]:
        """(event, id, detail) of every entry of the ledger, for each message that it is about."""
        entries = self.client.xrange(self.keys.events)
        flat = [(id, [word for field in fields.items() for word in field]) for id, fields in entries]
        return [(e["event"], e["id"], e["detail"]) for e in ledger.read(flat)]

    def snapshot(self) -> dict[bytes, Any]:
        """Every key of the prefix with its type and contents."""
        read = {
            b"string": self.client.get,
            b"list": self.list,
            b"zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
            b"hash": self.client.hgetall,
            b"stream": self.client.xrange,
        }
        keys = sorted(self.client.scan_iter(match=self.keys.prefix + ":{*", count=1000))
        return {key: (kind := self.client.type(key), read[kind](key)) for key in keys}


class Consumer:
    """A ConsumerState on a real server; replies may get lost and old trips may haunt."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.state = ConsumerState(
            lab.keys, name, lease=15.0, codec=CODECS["msgpack"], raw_codec=CODECS["json"], who="test"
        )
        self.now = 0.0
        self.sent: list[Command] = []

    def trip(self, want: int = 10, *settles: Settle, lose: bool = False) -> Answer | None:
        """One trip; None if its reply gets lost, and then the next one is this one again."""
        self.state.finished.extend(settles)
        reply = self.send(want)
        if lose:
            return None
        if reply[0] == b"spell":
            self.state.spell(reply)
            reply = self.send(want)
        return self.state.answered(reply, self.now)

    def send(self, want: int) -> list[Any]:
        """The reply to the next trip, or to the one that is unanswered."""
        self.sent.append(self.state.trip(want, self.now))
        reply: list[Any] = self.lab.reply(self.sent[-1])
        return reply
