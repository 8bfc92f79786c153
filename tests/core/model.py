"""A plain Python model of what the scripts do to one queue: the other half that the tests of the core join
ConsumerState with, and the yardstick that tests/lua holds against real servers.

Lists have their left end at index 0, as in Redis: put pushes left, claims take from the right.
"""

from __future__ import annotations

from collections import defaultdict
from hashlib import sha1
from typing import Any

from reliq.core import envelope as env
from reliq.core.command import Command

BELL = b"\xc1rlq\x00"


def raw(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def lost_count(element: bytes) -> int:
    return element[21] if env.is_envelope(element) and element[4] == 1 else 0


class Model:
    """One queue at a server whose clock is ``now`` (ms). Only lists and times: no memory, no types."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000
        self.ready: list[bytes] = []
        self.inbox: dict[str, list[bytes]] = defaultdict(list)
        self.doing: dict[str, list[bytes]] = defaultdict(list)
        self.consumers: dict[str, int] = {}
        self.sessions: dict[str, dict[str, Any]] = defaultdict(dict)
        self.later: dict[bytes, int] = {}
        self.dead: dict[bytes, int] = {}
        self.bodies: dict[str, bytes] = {}  # beside the list, by key

    # -- what others do ---------------------------------------------------------------------------------

    def put(self, *elements: bytes) -> None:
        """Accept elements, the first put first."""
        for element in elements:
            self.ready.insert(0, element)

    def bell(self, name: str) -> None:
        """What BLMOVE does when there is something."""
        if self.ready:
            self.inbox[name].append(self.ready.pop())

    def run(self, command: Command) -> Any:
        """Run a trip as a server would; the reply as redis-py gives it."""
        assert command.name == "trip"
        args = [raw(a) for a in command.args]
        return self.trip(args[0].decode(), args[1:])

    # -- the scripts ------------------------------------------------------------------------------------

    def trip(self, name: str, args: list[bytes]) -> list[Any]:
        number, lease = int(args[0]), int(args[1])
        session = self.sessions[name]
        epoch = raw(session.get("epoch", 0))
        last = session.get("trip", 0)
        if "dead" in session or "leaving" in session:
            return [b"dead", self.now, epoch, [], 0, 0, -1, -1, 0, [], 0, last]
        if number < last:
            return [b"stale", self.now, epoch, [], 0, 0, -1, -1, 0, [], 0, last]
        known_epoch, in_hand, want, mode = args[2], int(args[3]), int(args[4]), args[5].decode()
        unknown = known_epoch != epoch or len(self.doing[name]) != in_hand
        acks, listed = int(args[10]), int(args[10])
        if acks < 0:
            acks, listed = -acks, 2
            oldest = self.doing[name][:acks]
            same = len(oldest) == acks and [oldest[0], oldest[-1]] == args[11:13]
            if number > last and (unknown or last < number - 1 or not same):
                return [b"spell", self.now, epoch, [], 0, 0, -1, -1, 0, [], 0, last]
        self.consumers[name] = self.now + lease
        if number == last:
            held, waiting = list(self.doing[name]), len(self.ready)
            return [b"again", self.now, epoch, session["late"], 1, 0, -1, 0, 0, held, waiting, last]
        acked = args[11 : 11 + listed] if listed == acks else self.doing[name][:acks]
        self.ready += reversed(self.inbox.pop(name, []))
        late = self._settle(name, acked, args[11 + listed :])
        self._promote(int(args[6]), int(args[7]))
        claimed, suspects = self._claim(name, number, want, mode, int(args[7]))
        session.update(trip=number, late=late)
        session.setdefault("epoch", 0)
        live = sum(end > self.now for end in self.consumers.values())
        return [
            b"ok", self.now, epoch, late, int(unknown), int(suspects), live - 1 if suspects else -1,
            self._due_in(name), 0, list(self.doing[name]) if unknown else claimed, len(self.ready), last,
        ]  # fmt: skip

    def _settle(self, name: str, acks: list[bytes], rest: list[bytes]) -> list[int]:
        doing, late = self.doing[name], []
        settles = [(b"ack", a, b"", b"") for a in acks]
        words = [(rest[i], rest[i + 1], rest[i + 2], rest[i + 3]) for i in range(0, len(rest), 4)]
        settles += [each for each in words if each[0] != b"drop"]
        for index, (verb, element, back, detail) in enumerate(settles):
            if element not in doing:
                late.append(index)
                continue
            doing.remove(element)
            if verb == b"retry" and back in self.later:
                self.ready.insert(0, back)
            elif verb == b"retry":
                self.later[back] = self.now + int(detail)
            elif verb == b"release":
                self.ready.append(back)
            elif verb == b"bury":
                self.dead[back] = self.now
        refused = {acks[index][env.CHECKED_FROM : env.META_FROM].hex() for index in late if index < len(acks)}
        for verb, id, key, _ in words:
            if verb == b"drop" and id.decode() not in refused:
                self.bodies.pop(key.decode(), None)
        return late

    def _promote(self, most: int, budget: int) -> None:
        size = 0
        due = sorted((at, e) for e, at in self.later.items() if at <= self.now)[:most]
        for _, element in due:
            if size and size + len(element) > budget:
                break
            size += len(element)
            self.ready.insert(0, element)
            del self.later[element]

    def _claim(self, name: str, trip: int, want: int, mode: str, budget: int) -> tuple[list[bytes], bool]:
        claimed: list[bytes] = []
        declined: list[bytes] = []
        passed, size, blocked = 0, 0, False
        while want and self.ready and self.ready[-1] == BELL:
            self.ready.pop()
        look = 0 if not want else want + 100 if mode == "decline" else want
        for place, element in enumerate(reversed(self.ready[-look:] if look else []), 1):
            size += len(element)
            if place > 1 and size > budget:
                break
            suspect = lost_count(element) > 0
            if suspect and mode == "decline":
                declined.append(element)
            elif suspect and (claimed or (self.doing[name] and mode != "beside")):
                blocked = True
                break
            elif element != BELL:
                if len(claimed) >= want:
                    break
                claimed.append(self._wrapped(element, f"{name}:{trip}:{place}"))
            passed += 1
            if suspect and mode != "decline":
                break
        del self.ready[len(self.ready) - passed :]
        self.ready += reversed(declined)
        self.doing[name] += claimed
        return claimed, blocked or bool(declined)

    def _wrapped(self, element: bytes, salt: str) -> bytes:
        if env.is_envelope(element):
            return element
        id = env.uuid7(self.now, sha1(salt.encode(), usedforsecurity=False).digest()[:10])
        return env.pack(id, element, {"r": True})

    def _due_in(self, name: str) -> int:
        ends = [end + 1 for n, end in self.consumers.items() if n != name and end > self.now]
        times = [min(self.later.values())] if self.later else []
        if ends:
            times.append(min(ends))
        return max(min(times) - self.now, 0) if times else -1

    def reap(self, name: str, *, dead: bool = False, poison: int = 3) -> None:
        """All that one consumer held goes back, charged; ``dead`` marks its name for good."""
        if dead:
            self.sessions[name]["dead"] = self.now
        inbox, doing = self.inbox.pop(name, []), self.doing.pop(name, [])
        if inbox or doing:
            self.sessions[name]["epoch"] = self.sessions[name].get("epoch", 0) + 1
        self.ready += reversed([e for e in inbox if e != BELL])
        for element in reversed(doing):
            if not env.is_envelope(element) or element[4] != 1:
                self.ready.append(element)
                continue
            back = bumped(element)
            if lost_count(back) >= poison:
                self.dead[back] = self.now
            else:
                self.ready.append(back)


def bumped(element: bytes) -> bytes:
    """What a reap makes of an envelope, whatever its meta may be: one more return, one more loss."""
    returns = int.from_bytes(element[13:17], "big") + 1
    losses = min(element[21] + 1, 255)
    return element[:13] + returns.to_bytes(4, "big") + element[17:21] + bytes([losses]) + element[22:]
