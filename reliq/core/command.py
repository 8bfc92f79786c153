"""What to run on Redis, as a value. Shells run it; nothing here does."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from reliq.core.scripts import Script
from reliq.errors import OutcomeUnknown, ReliqError

Arg = bytes | str | int | float
T = TypeVar("T")


class Command(NamedTuple):
    """One round trip: a plain verb or a script.

    ``idempotent`` says that running it twice does no more than running it once, because it only reads
    or because the server recognises the repeat; only such a command is ever sent again by itself.
    ``after``: what is sent behind it in the same pipeline, such as WAIT; ``parse`` then gets the list of all
    replies, errors among them. ``needs``: the oldest server that knows all of it. ``packed``: its words as they go
    over the wire, if they have been packed already; in pieces, if one of them is large.
    """

    verb: str | Script
    keys: tuple[str, ...]
    args: tuple[Arg, ...] = ()
    parse: Callable[[Any], Any] | None = None
    idempotent: bool = False
    queue: str = ""
    after: tuple[tuple[Arg, ...], ...] = ()
    needs: tuple[int, int] = (0, 0)
    packed: bytes | tuple[bytes, ...] = b""

    @property
    def routing_key(self) -> str:
        """The key that says which node of a Cluster it is for; empty: that of the queue."""
        return self.keys[0] if self.keys else ""

    @property
    def name(self) -> str:
        """How the command is called in messages to people."""
        return self.verb if isinstance(self.verb, str) else self.verb.name

    def words(self) -> tuple[Arg, ...]:
        """The command as it goes over the wire; a script by its digest."""
        if isinstance(self.verb, str):
            return (*self.verb.split(" "), *self.keys, *self.args)
        return ("EVALSHA", self.verb.sha, len(self.keys), *self.keys, *self.args)

    def source_words(self) -> tuple[Arg, ...]:
        """The same for a server that does not know the script yet (NOSCRIPT)."""
        assert isinstance(self.verb, Script)
        return ("EVAL", self.verb.source, len(self.keys), *self.keys, *self.args)

    def anew_words(self) -> tuple[Arg, ...]:
        """The same for a server of which we know nothing."""
        return self.words() if isinstance(self.verb, str) else self.source_words()

    def read(self, reply: Any) -> Any:
        """The reply as the caller wants it. OutcomeUnknown if this is no reply that the command can have."""
        try:
            if isinstance(self.verb, Script) and not self.verb.fits(reply[0] if self.after else reply):
                raise self.nonsense(reply)
            return reply if self.parse is None else self.parse(reply)
        except ReliqError:
            raise
        except Exception as error:
            raise self.nonsense(reply) from error

    def nonsense(self, reply: Any) -> OutcomeUnknown:
        """What is to be raised of a reply that the command cannot have."""
        what = f"queue {self.queue!r}: {self.name}" if self.queue else self.name
        return OutcomeUnknown(
            f"{what}: {repr(reply)[:100]} came for an answer, which it cannot be; it may have run. Look for what "
            "stands between here and Redis: a proxy, or a server that is none."
        )


def bulk(word: Arg) -> bytes:
    """A word as it goes over the wire."""
    data = word if isinstance(word, bytes) else str(word).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def in_pieces(words: Sequence[Arg], large: bytes) -> tuple[bytes, ...]:
    """The same of all words, one of which is large: that one is not copied."""
    at = next(i for i, word in enumerate(words) if word is large)
    head = b"*%d\r\n%b$%d\r\n" % (len(words), b"".join(map(bulk, words[:at])), len(large))
    return head, large, b"\r\n" + b"".join(map(bulk, words[at + 1 :]))


#: A flow of several steps: yields a command, or a list of them for one pipeline, is sent the parsed
#: replies, and returns its result. A failing step is thrown into it.
Flow = Generator["Command | list[Command]", Any, T]
