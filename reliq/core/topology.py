"""Where the primary of a key is: fixed, asked from Sentinels, or the owner of a Cluster slot.

No I/O in here. ``reach_g`` is a flow: it yields what to do next and is sent the result, or an error is thrown
into it; each shell has a driver of some lines. The rules:

1. Sentinels are asked anew at every connect, in turn, the one that was right last time first. What one names is
   believed only if it says ROLE master itself: a sentinel may be behind.
2. In a Cluster a connection goes to the owner of its key's slot, as CLUSTER SLOTS said last, and later MOVED.
   If the owner is not there, or says CLUSTERDOWN, other nodes are asked; an answer that names the same node
   again is believed only if no other node has a better one.
3. MOVED and ASK mean: certainly not executed. MOVED is kept, ASK holds for one command.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from reliq.core.keys import own_tag
from reliq.errors import OutcomeUnknown, ReliqError, Unavailable

SLOTS: Final = 16384
#: So often one command follows MOVED; a slot that runs away faster is left to the callers' retries.
HOPS: Final = 5


class Node(NamedTuple):
    """One server process."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Server(NamedTuple):
    """What a connection says about the server that it reached. ``role`` is asked only behind Sentinels; ``replid``
    names its history, which is another one after it followed somebody."""

    version: str = ""
    run_id: str = ""
    client_id: int = 0
    cluster: bool = False
    role: str = ""
    replid: str = ""

    @property
    def identity(self) -> str:
        """Another one means that confirmed writes may be forgotten: another process, or another history."""
        return f"{self.run_id}:{self.replid}" if self.run_id else ""


class Ask(NamedTuple):
    """Send one command to a sentinel or node, on a connection for that alone; the reply is sent back."""

    node: Node
    words: tuple[str, ...]


class Open(NamedTuple):
    """Make this the connection; the Server that it reached is sent back."""

    node: Node


Reach = Generator["Ask | Open", Any, None]


def _crc16(data: bytes) -> int:
    """CRC-16/XMODEM, as the Redis Cluster specification has it."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


@lru_cache(maxsize=4096)
def slot_of(key: str) -> int:
    """The slot of a key: of its hash tag, if it has one."""
    return _crc16((own_tag(key) or key).encode("utf-8", "surrogateescape")) % SLOTS


def redirection(text: str, asked: Node | None) -> tuple[int, Node] | None:
    """Slot and node of a ``MOVED 3999 127.0.0.1:6381`` or ``ASK …``; without a host, the one that was asked."""
    words = text.split()
    if len(words) != 3 or words[0] not in ("MOVED", "ASK") or not words[1].isdigit():
        return None
    host, _, port = words[2].rpartition(":")
    if not (port.isdecimal() and words[1].isdecimal()):
        return None
    node = Node(_host(host, asked), int(port))
    return (int(words[1]), node) if is_address(*node) else None


def _host(named: str, asked: Node | None) -> str:
    return asked.host if asked and named in ("", "?") else named.strip("[]")


class Topology:
    """What is known of the servers behind one URL, shared by all connections to it."""

    def __init__(self, seeds: Sequence[Node], *, master: str = "", label: str = "") -> None:
        self.master = master
        self.cluster = len(seeds) > 1 and not master
        self._label = label
        self._seeds = tuple(seeds)
        self._known = self._seeds
        self._ranges: list[tuple[int, int, Node]] = []
        self._moved: dict[int, Node] = {}
        self._stale = True
        self._doubted: Node | None = None

    # -- what replies and errors tell -------------------------------------------------------------------

    def owner(self, key: str) -> Node | None:
        """Who serves this key, as far as we know; None outside of a Cluster."""
        if not self.cluster:
            return None
        slot = slot_of(key)
        found = self._moved.get(slot)
        return found or next((node for first, last, node in self._ranges if first <= slot <= last), None)

    def moved(self, slot: int, node: Node) -> None:
        """MOVED: the slot is there now, and the rest of the map may be old too."""
        self.cluster = True
        self._moved = {**self._moved, slot: node}
        self._known = _unique((node, *self._known))
        self._stale, self._doubted = True, None

    def doubt(self, node: Node | None) -> None:
        """This node does not serve what it should; ask others before it is tried again."""
        if self.cluster:
            self._stale, self._doubted = True, node

    # -- the way there ----------------------------------------------------------------------------------

    def reach_g(self, key: str) -> Reach:
        """Open a connection to the primary of a key. Raises Unavailable with what was tried."""
        if self.master:
            yield from self._by_sentinels_g()
            return
        if not self.cluster:
            server = yield Open(self._seeds[0])
            if not server.cluster:
                return
            self.cluster = True  # one address of a Cluster is enough to find the others
        yield from self._to_owner_g(key)

    def _by_sentinels_g(self) -> Reach:
        failures: list[str] = []
        dead: set[Node] = set()
        for sentinel in self._known:
            try:
                reply = yield Ask(sentinel, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master))
            except ReliqError as error:
                failures.append(str(error))
                continue
            if not reply:
                failures.append(f"sentinel {sentinel} knows no {self.master!r}")
                continue
            try:
                node = _address(reply, sentinel)
            except (ValueError, TypeError, LookupError):
                failures.append(f"sentinel {sentinel} named no address but {repr(reply)[:100]}")
                continue
            if node in dead:
                continue
            try:
                server = yield Open(node)
            except (Unavailable, OutcomeUnknown) as error:
                failures.append(f"sentinel {sentinel} names {node}: {error}")
                dead.add(node)
                continue
            if server.role in ("master", ""):  # "": an ACL forbids to ask
                self._known = _unique((sentinel, *self._known))
                return
            failures.append(f"sentinel {sentinel} names {node}, which is a {server.role}")
            dead.add(node)
        raise Unavailable(
            f"no primary of {self.master!r} could be reached by the sentinels "
            f"{', '.join(map(str, self._seeds))}: {'; '.join(failures)}"
        )

    def _to_owner_g(self, key: str) -> Reach:
        if self._stale or self.owner(key) is None:
            yield from self._learn_g(key)
        node = self._owner_or_raise(key)
        try:
            yield Open(node)
        except (Unavailable, OutcomeUnknown):
            self.doubt(node)
            yield from self._learn_g(key)
            other = self._owner_or_raise(key)
            if other == node:
                self.doubt(node)
                raise
            yield Open(other)

    def _learn_g(self, key: str) -> Reach:
        """CLUSTER SLOTS from the first node that has something new to say."""
        failures: list[str] = []
        answered = False
        for node in self._to_ask():
            try:
                reply = yield Ask(node, ("CLUSTER", "SLOTS"))
                self._learned(reply, node)
            except ReliqError as error:
                failures.append(str(error))
                continue
            except (ValueError, TypeError, LookupError):
                failures.append(f"{node} gave no list of slots")
                continue
            answered = True
            if self._doubted is None or self.owner(key) != self._doubted:
                break
        if not answered:
            raise Unavailable(f"no node of the cluster at {self._label} can be asked: {'; '.join(failures)}")
        self._stale, self._doubted = False, None

    def _to_ask(self) -> Iterator[Node]:
        nodes = _unique((*self._known, *self._seeds))
        yield from (node for node in nodes if node != self._doubted)
        if self._doubted is not None:
            yield self._doubted

    def _learned(self, reply: Any, asked: Node) -> None:
        ranges: list[tuple[int, int, Node]] = []
        nodes: list[Node] = []
        for first, last, *servers in reply:
            serving = [_address(server, asked) for server in servers]
            ranges.append((int(first), int(last), serving[0]))
            nodes += serving
        self._ranges, self._moved = ranges, {}
        self._known = _unique((asked, *nodes))

    def _owner_or_raise(self, key: str) -> Node:
        found = self.owner(key)
        if found is None:
            raise Unavailable(
                f"no node of the cluster at {self._label} serves slot {slot_of(key)} (of {key!r}); "
                "wait for it, or repair the cluster"
            )
        return found


def _unique(nodes: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(nodes))


def _text(value: Any) -> str:
    """A name in a reply; TypeError if it is none."""
    if value is not None and not isinstance(value, bytes | str):
        raise TypeError(f"{value!r} is no name")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def is_address(host: str, port: int) -> bool:
    """Whether a connection can be tried; of others not even the attempt fails in an orderly way."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable() and 0 < port <= 65535


def _address(named: Any, asked: Node) -> Node:
    """Host and port as a server names them; ValueError, TypeError or LookupError if that is no address."""
    node = Node(_host(_text(named[0]), asked), int(named[1]))
    if not is_address(*node):
        raise ValueError(f"{node} is no address")
    return node
