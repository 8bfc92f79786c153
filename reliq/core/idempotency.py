"""Idempotency: of the messages with one key one is handled, and the others are told what came of that.

The marker of a key (``once:<digest>``) is a text: ``p``, the id (hex), the consumer, a line break and the element
of the message that a handler has in hand with this key; or ``d``, the id of the one that is done, and its answer
(see ``results``). The first is written before the handler begins, by ``enter.lua``, and says nothing any more when
that element has left the processing list of that consumer: so no crash leaves a key locked. The second goes with
the ack, in the very trip that has it accepted. Both end by themselves.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import results, scripts
from reliq.core.command import Command
from reliq.core.keys import Keys

_ENTER: Final = scripts.load(
    "enter", shape=[frozenset({1}), (frozenset({b"done", b"busy", b"lost"}), bytes, bytes)]
)
#: Larger answers are not kept with a key that is done.
_ANSWER: Final = 4096


class Entered(NamedTuple):
    """Whether a handler may begin: ``how`` is "" (it may), "done", "busy" or "lost"; ``id``: of the message that
    is done, or in hand; ``answer``: what that one has left."""

    how: str = ""
    id: str = ""
    answer: bytes = b""

    @property
    def value(self) -> Any:
        """What the handler of the one that is done has returned."""
        return results.value(self.answer)


def marker(keys: Keys, scope: str, key: str) -> str:
    """Where it is written down what is known of a key. ``scope``: the type of its messages, if they have one."""
    text = f"{scope}\0{key}".encode(errors="surrogatepass")  # JSON can say what UTF-8 cannot carry
    return keys.once(sha1(text, usedforsecurity=False).digest()[:16])


def enter(keys: Keys, consumer: str, element: bytes, marker: str, ttl: float) -> Command:
    """Ask whether a handler may begin with this element, and take its key if so. Parses to Entered."""

    def parse(reply: Any) -> Entered:
        return Entered() if reply == 1 else Entered(reply[0].decode(), reply[1].decode(), reply[2])

    names = (marker, keys.doing(consumer), keys.doing(""), keys.events)
    ms = round(max(ttl, defaults.FORGET_AFTER) * 1000)
    args = (consumer, element, element[env.CHECKED_FROM : env.META_FROM].hex(), ms)
    return Command(_ENTER, names, args, parse, idempotent=True, queue=keys.queue)


def done(id: str, answer: bytes) -> bytes:
    """The marker of a key that is done by this message."""
    if len(answer) > _ANSWER:
        answer = results.lost(f"the first one with its key returned {len(answer):,} bytes, of which 4 kB are kept")
    return b"d" + id.encode() + answer
