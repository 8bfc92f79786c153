"""Which Redis, which prefix, which queues: what the common options of a command name."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from reliq import embedded
from reliq.cli import text
from reliq.core import ops
from reliq.core.codec import CODECS, Codec, find
from reliq.core.command import Command
from reliq.core.keys import Keys, check_name
from reliq.core.ops import Known
from reliq.errors import ConfigError
from reliq.settings import Settings
from reliq.sync.connection import Links
from reliq.sync.queue import Queue

_LISTED: Final = 20


class ForeignCodec:
    """A codec that lives in somebody's application: we know its name, and pass its bytes through."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, body: Any) -> bytes:
        if not isinstance(body, bytes):
            raise TypeError(f"{self._unknown()}; --raw sends bytes as they are")
        return body

    def decode(self, data: bytes) -> Any:
        raise ValueError(self._unknown())

    def _unknown(self) -> str:
        return f"the command line does not know codec {self.name!r}: say where it is, with --codec MODULE:ATTR"


def _own(named: str) -> Codec:
    """The codec of this name, also out of the current directory."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return find(named)


#: The connections of all places, until ``close``.
_IN_USE: Final[list[Links]] = []


def close() -> None:
    """Close the connections of all places: a command is over, however it has ended."""
    while _IN_USE:
        _IN_USE.pop().close()


class Place:
    """One Redis and one prefix. All queues share the connections."""

    def __init__(self, url: str | None, prefix: str | None, codec: str | None = None) -> None:
        self.settings = settings = Settings.chosen(url, None)
        self.prefix = check_name("prefix", prefix or settings.prefix or "reliq")
        self.links = Links(lambda: embedded.here_or_embedded(settings))
        _IN_USE.append(self.links)
        self._codec = None if codec is None else _own(codec)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Place:
        """What the options say."""
        return cls(args.url, args.prefix, args.codec)

    def __str__(self) -> str:
        return f"prefix {self.prefix!r} at {self.links.address.label}"

    def known(self) -> list[Known]:
        """The queues in the index, by name."""
        found: list[Known] = self.links.insist(ops.known_queues(self.prefix))
        return found

    def choose(self, names: Sequence[str]) -> list[Queue]:
        """The named queues, or all that are known if none is named; ConfigError for an unknown name."""
        known = self.known()
        if not names:
            return [self.open(entry) for entry in known]
        return [self.open(self._find(name, known)) for name in dict.fromkeys(names)]

    def one(self, name: str | None) -> Queue:
        """The named queue; without a name, the only one that there is."""
        if name is not None:
            return self.choose([name])[0]
        known = self.known()
        if len(known) == 1:
            return self.open(known[0])
        if not known:
            raise self._nothing_known("no --queue was named")
        raise ConfigError(f"which queue? Name it with --queue; there are {_listed(known)} ({self})")

    def for_put(self, name: str) -> tuple[Queue, list[Known]]:
        """The queue to put into, also a new one; and the queues that were known before."""
        known = self.known()
        entry = next((k for k in known if k.name == name), Known(name))
        return self.open(entry), known

    def open(self, entry: Known) -> Queue:
        """The queue of an entry of the index, with the key and the codec that it was registered with."""
        key = entry.key if isinstance(entry.key, str) else None
        codec: str | Codec | None = entry.codec if isinstance(entry.codec, str) else None
        if self._codec is not None and self._codec.name == codec:
            codec = self._codec
        elif isinstance(codec, str) and codec not in CODECS:
            codec = ForeignCodec(codec)
        how: dict[str, Any] = {"settings": self.settings, "key": key, "codec": codec, "prefix": self.prefix}
        try:
            queue = Queue(entry.name, lease=entry.lease, max_losses=entry.max_losses, **how)
        except ConfigError:  # an index that somebody else has written into
            queue = Queue(entry.name, **how)
        queue.links = self.links.of(queue.options.keys)
        return queue

    def _find(self, name: str, known: list[Known]) -> Known:
        for entry in known:
            if entry.name == name:
                return entry
        keys = Keys(name, self.prefix)
        if self._exists(keys):
            return Known(name)
        if not known:
            raise self._nothing_known(f"there is no queue {name!r}")
        near = text.near(name, [entry.name for entry in known])
        raise ConfigError(f"there is no queue {name!r} under {self}{near}; known: {_listed(known)}")

    def _exists(self, keys: Keys) -> bool:
        """Whether anything of a queue is there, although the index does not name it."""
        parts = (keys.ready, keys.later, keys.dead, keys.consumers)
        return bool(self.links.insist(Command("EXISTS", parts, idempotent=True)))

    def _nothing_known(self, what: str) -> ConfigError:
        return ConfigError(
            f"{what}, and no queue is known under {self}; a queue appears with its first put or its first "
            "worker. Check --url and --prefix"
        )


def again(args: argparse.Namespace, words: str, queue: str) -> str:
    """A command to type next, for the same queue. It leaves out the URL, which may hold a password."""
    prefix = f" --prefix {args.prefix}" if args.prefix else ""
    return f"reliq {words} --queue {text.safe(queue)}{prefix}"


def _listed(known: list[Known]) -> str:
    names = ", ".join(text.safe(entry.name) for entry in known[:_LISTED])
    more = len(known) - _LISTED
    return f"{names} and {more} more (reliq status lists them)" if more > 0 else names
