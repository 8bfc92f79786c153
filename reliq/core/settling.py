"""What becomes of the messages that one consumer holds: the settles that its trips carry."""

from __future__ import annotations

from collections import deque
from itertools import count

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import routing, trace
from reliq.core.message import ACK, BURY, RELEASE, RETRY, UNROUTED, Message, Settle, Traced


class Settling:
    """Makes settles, and keeps those that are to be sent. ``name``: of the consumer."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: What the next trip settles. A bare message is acked, and nobody waits to hear of it.
        self.finished: deque[Settle | Message] = deque()
        self._notes = count(1)

    def ack(self, message: Message, answer: bytes = b"", mark: str = "") -> Settle:
        """Done: remove it. ``answer``: for who waits for its result; ``mark``: ms and key of what then says that
        its idempotency key is done."""
        if message.traced:
            message.done()
        return Settle(ACK, message, answer, mark)

    def retry(self, message: Message, delay: float, error: str) -> Settle:
        """Failed: come back in ``delay`` seconds, with the last failure written into the message."""
        self._note_failure(message, error)
        meta = {**message.envelope.meta, "e": env.storable(error[:200])}
        meta.pop(routing.TIMES_KEY, None)
        return Settle(RETRY, message, env.bump(message.envelope, failed=1, meta=meta), round(delay * 1000))

    def release(self, message: Message, *, handled: bool = False) -> Settle:
        """Put back at the head, unprocessed. ``handled``: it had reached a handler."""
        return Settle(RELEASE, message, env.bump(message.envelope, released=int(handled)))

    def release_later(self, message: Message, delay: float) -> Settle:
        """Put back by its handler's own wish, in ``delay`` seconds; counts no failure."""
        meta = message.envelope.meta
        routed = {k: v for k, v in meta.items() if k != routing.TIMES_KEY} if routing.TIMES_KEY in meta else None
        return Settle(RETRY, message, env.bump(message.envelope, released=1, meta=routed), round(delay * 1000))

    def unrouted(self, message: Message, type: str | None, delay: float) -> Settle:
        """Put back because no handler here takes this type, for ``delay`` seconds; none has seen it."""
        meta = message.envelope.meta
        back = env.bump(message.envelope, meta={**meta, routing.TIMES_KEY: routing.times_of(meta) + 1})
        said = "" if type is None else env.storable(type)[:100]
        return Settle(UNROUTED, message, back, f"{round(delay * 1000)} {said}".rstrip())

    def bury(self, message: Message, cause: str, error: str, traceback: str = "", *, failed: int = 0) -> Settle:
        """Dead-letter it, with what is known about why."""
        self._note_failure(message, error)
        note = self.death_note(message, cause, error, traceback)
        back = env.join_note(note, env.bump(message.envelope, failed=failed))
        return Settle(BURY, message, back, note["cause"])

    @staticmethod
    def _note_failure(message: Message, error: str) -> None:
        if isinstance(message, Traced):
            message.step(trace.FAIL, env.storable(error[:200]))

    def death_note(self, message: Message, cause: str, error: str, traceback: str = "") -> env.Meta:
        """What ``dead`` keeps beside the element; ``at`` is the score of the member, server ms."""
        id, error = message.envelope.id.hex(), env.storable(error[:500])
        note: env.Meta = {"id": id, "cause": env.storable(str(cause)), "worker": self.name, "error": error}
        note["n"] = next(self._notes)  # equal members of a sorted set are one, equal messages are several
        if traceback:
            note["traceback"] = env.storable(traceback[-defaults.TRACEBACK :])
        return note
