"""The names of a queue's keys. All of them share one hash tag, so they live in one Cluster slot.

``{prefix}:{tag}:<queue>:<part>``: the tag is the hash tag of the ready list (its own, if the key of an
adopted list has one; else the whole key), so an adopted list and the rest of its queue hash alike. The
queue's name stands beside the tag because two queues may share one (``{shop}orders``, ``{shop}mails``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from reliq.errors import ConfigError

#: The version of all that stands in these keys, beside the messages, which have one of their own. Minor: something
#: was added that others may overlook. Major: who does not know it would do harm, and keeps away.
SCHEMA: Final = (1, 0)

_NAME = re.compile(r"[^\s{}\x00-\x1f\x7f]{1,200}\Z")
#: Parts of our own key names that hold a consumer's name or an id behind them: ``orders:doing`` would look
#: like a consumer of ``orders`` if both shared a tag.
_OURS = re.compile(r"(^|:)(inbox|doing|session|seen)(:|\Z)")

#: What a part of a queue holds, in the words of TYPE.
_TYPES: Final = {
    "ready": "list", "inbox": "list", "doing": "list", "later": "zset", "dead": "zset", "consumers": "zset",
    "session": "hash", "producers": "hash", "stats": "hash", "events": "stream", "traces": "stream",
    "lock": "hash", "seen": "string", "body": "string", "uniques": "hash", "unique": "string", "lanes": "zset",
    "turns": "zset",
    "schedules": "hash", "ticks": "zset", "result": "list", "progress": "string",
    "once": "string",
}  # fmt: skip


def type_of(key: str) -> str:
    """What a key of a queue holds, in the words of TYPE. A name that is none of reliq's is an adopted list."""
    _, tagged, name = key.rpartition("}:")
    if not tagged:
        return "hash" if key.endswith(":queues") else "list"
    *_, before, last = ["", *name.split(":")]
    return _TYPES.get(last) or _TYPES.get(before, "list")


def schema_of(text: object) -> tuple[int, int]:
    """The schema that an entry of the index names: "1.0", or what releases wrote that named none."""
    found = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2])) if found else (1, 0)


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it may name a queue or a prefix, else raise ConfigError."""
    if not isinstance(name, str) or not _NAME.match(name):
        adopt = "" if what == "prefix" else "; an existing list of any name can be adopted with key="
        raise ConfigError(
            f"{what} {name!r} cannot be used: 1 to 200 characters without white space and braces{adopt}"
        )
    if not _is_utf8(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used: it is no text that UTF-8 can carry; spell it otherwise"
        )
    if _OURS.search(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used: inbox, doing, session and seen are parts of reliq's own key names"
        )
    return name


def _is_utf8(name: str) -> bool:
    """False for a half of a surrogate pair, as bytes that are no UTF-8 become on a command line."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def own_tag(key: str) -> str | None:
    """The hash tag that Redis Cluster sees in a key: between the first ``{`` and the next ``}``, if not empty."""
    start = key.find("{")
    end = key.find("}", start + 1)
    return key[start + 1 : end] if start >= 0 and end > start + 1 else None


def _literal(text: str) -> str:
    """A SCAN pattern for this very text."""
    return "".join("\\" + c if c in "*?[]\\^" else c for c in text)


@dataclass(frozen=True)
class Keys:
    """All key names of one queue. ``key`` is the ready list, if it is an existing one that was adopted."""

    queue: str
    prefix: str = "reliq"
    key: str | None = None

    def __post_init__(self) -> None:
        check_name("queue name", self.queue)
        check_name("prefix", self.prefix)
        if self.key == "":
            raise ConfigError(f"queue {self.queue!r}: key='' is no key; leave it out or name a list")
        if self.key is not None and not (isinstance(self.key, str) and _is_utf8(self.key)):
            raise ConfigError(
                f"queue {self.queue!r}: key={self.key!r} is no text that UTF-8 can carry; name a list"
            )

    @cached_property
    def tag(self) -> str:
        """The text between the braces of every key of this queue."""
        if self.key is None:
            return self.queue
        return own_tag(self.key) or self.key.replace("}", "%7D")

    @cached_property
    def one_slot(self) -> bool:
        """False if the adopted key hashes to a slot that no tag reproduces; Redis Cluster must refuse it."""
        return self.key is None or own_tag(self.key) is not None or "}" not in self.key

    def _of(self, part: str) -> str:
        return f"{self.prefix}:{{{self.tag}}}:{self.queue}:{part}"

    @cached_property
    def ready(self) -> str:
        return self.key if self.key is not None else self._of("ready")

    @cached_property
    def consumers(self) -> str:
        return self._of("consumers")

    @cached_property
    def later(self) -> str:
        return self._of("later")

    @cached_property
    def dead(self) -> str:
        return self._of("dead")

    @cached_property
    def events(self) -> str:
        return self._of("events")

    @cached_property
    def traces(self) -> str:
        return self._of("traces")

    @cached_property
    def stats(self) -> str:
        return self._of("stats")

    def purging(self, state: str) -> str:
        """Where a purge sets aside what was ready, or later."""
        return self._of(f"purging:{state}")

    @cached_property
    def lock(self) -> str:
        """Who holds the queue for himself alone, and what he has in hand."""
        return self._of("lock")

    @cached_property
    def schedules(self) -> str:
        """What is put by itself, again and again."""
        return self._of("schedules")

    @cached_property
    def ticks(self) -> str:
        """When each of them is to be put next."""
        return self._of("ticks")

    @cached_property
    def producers(self) -> str:
        return self._of("producers")

    @cached_property
    def uniques(self) -> str:
        """Which messages hold what is unique until they are done, or started."""
        return self._of("uniques")

    @cached_property
    def lanes(self) -> str:
        """The order of messages that wait for another one with the same ordering key."""
        return self._of("lanes")

    @cached_property
    def turns(self) -> str:
        """Whose turn it is of the tenants that have messages which wait, and when that of a group is."""
        return self._of("turns")

    def inbox(self, consumer: str) -> str:
        """Where BLMOVE puts what it took for this consumer, until the next trip."""
        return self._of("inbox:" + consumer)

    def doing(self, consumer: str) -> str:
        """The processing list of this consumer; only trips and reaps touch it."""
        return self._of("doing:" + consumer)

    def session(self, consumer: str) -> str:
        """The record of this consumer: last trip number and its answer, reap epoch, dead mark."""
        return self._of("session:" + consumer)

    def marker(self, id: bytes) -> str:
        """Stands for an hour after a put with an explicit id, so that a repeat adds no second copy."""
        return self._of("seen:" + id.hex())

    def unique(self, digest: bytes) -> str:
        """Stands for as long as a put with this key is to be the only one."""
        return self._of("unique:" + digest.hex())

    @cached_property
    def results(self) -> str:
        """What the keys of results begin with; an id (hex) follows."""
        return self._of("result:")

    def result(self, id: bytes) -> str:
        """What became of a message whose put asked for that, once it has ended; one element, for a time."""
        return self.results + id.hex()

    def progress(self, id: bytes) -> str:
        """How far the handler of a message has come, as it has said last; for a time."""
        return self._of("progress:" + id.hex())

    def once(self, digest: bytes) -> str:
        """What is known of an idempotency key: which message has it in hand, or has done it."""
        return self._of("once:" + digest.hex())

    def body(self, name: bytes) -> str:
        """A large body, beside the list; ``name``: the 16 bytes by which its message knows it."""
        return self._of("body:" + name.hex())

    def body_of(self, key: str) -> bytes | None:
        """The name of the large body that this key is, or None."""
        start, name = self._of("body:"), key[-32:]
        return bytes.fromhex(name) if key == start + name and re.fullmatch("[0-9a-f]{32}", name) else None

    def aside(self, key: str, who: str) -> str:
        """The new name of a key of the queue that holds something else; nobody reads it."""
        return self._of(f"aside:{self.part_of(key)}:{who}")

    def part_of(self, key: str) -> str | None:
        """What stands behind the queue's name in this key, or None if it is none of the queue's."""
        start = self._of("")
        return key[len(start) :] if key.startswith(start) else None

    @cached_property
    def tagged(self) -> str:
        """What all keys begin with under this prefix that are in the queue's slot."""
        return f"{self.prefix}:{{{self.tag}}}:"

    @cached_property
    def tagged_pattern(self) -> str:
        """A SCAN pattern for them."""
        return _literal(self.tagged) + "*"

    @cached_property
    def queues(self) -> str:
        """The index of all queues under this prefix; the only key outside of the queue's slot."""
        return f"{self.prefix}:queues"

    @cached_property
    def lists_pattern(self) -> str:
        """A SCAN pattern for all inboxes and processing lists of this queue."""
        return _literal(self._of("")) + "[di][on][ib]*:*"

    def consumer_of(self, key: str) -> str | None:
        """The consumer whose inbox or processing list this key is, or None."""
        for part in ("inbox:", "doing:"):
            start = self._of(part)
            if key.startswith(start):
                return key[len(start) :]
        return None
