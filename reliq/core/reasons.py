"""Why: the closed vocabulary of reason codes, each with what it means, where it comes from, and what to do.

The same codes are in errors (``error.code``), in what ``explain`` and ``status`` say, and in their JSON. A code
is stable: its texts may change, its meaning does not, and no code is ever used for something else.

A dead letter stores its cause without the first word: ``ATTEMPTS`` is DEAD_ATTEMPTS. A handler may die with a
code of its own (``raise DecodeError("NO_SUCH_FORMAT", ...)``); such a cause is DEAD_OTHER.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Kind(str, Enum):
    """What a reason is about."""

    MESSAGE = "where a message is, and why it is not further"
    DEAD = "why a message was given up"
    QUEUE = "what is wrong with a queue"
    ERROR = "why a call failed"
    VERDICT = "what a handler said"


class Reason(str, Enum):
    """One reason: its code (it is that text), its kind, what it means, where it comes from, what to do now."""

    kind: Kind
    summary: str
    cause: str
    remedy: str

    def __new__(cls, code: str, kind: Kind, summary: str, cause: str, remedy: str) -> Reason:
        made = str.__new__(cls, code)
        made._value_ = code
        made.kind, made.summary, made.cause, made.remedy = kind, summary, cause, remedy
        return made

    def __str__(self) -> str:
        return self.name

    # -- where a message is, and why it is not further -----------------------------------------------------

    WAITING_TURN = (
        "WAITING_TURN", Kind.MESSAGE,
        "it is ready, and so are others that were put before it",
        "consumers take the oldest first, and their hands are full with those",
        "wait; to be faster start more workers, or give them a larger --concurrency",
    )  # fmt: skip
    SUSPECT_WAITS = (
        "SUSPECT_WAITS", Kind.MESSAGE,
        "it is ready, and waits for a worker with empty hands",
        "a worker died with it, so it is handed out alone: if it kills again, no neighbour is punished",
        "wait; if it is urgent, start one more worker",
    )  # fmt: skip
    NO_CONSUMERS = (
        "NO_CONSUMERS", Kind.MESSAGE,
        "there is work, and nobody takes it: no consumer of this queue is alive",
        "no worker was started for this queue, under this prefix, or all have stopped or died",
        "start one: reliq worker MODULE:HANDLER",
    )  # fmt: skip
    CONSUMERS_STALLED = (
        "CONSUMERS_STALLED", Kind.MESSAGE,
        "consumers are alive, and yet the queue has not moved for a while",
        "their handlers take long or hang, or their hands are full and their claim loop does not go on",
        "look at what they hold: reliq status; give handlers a timeout=, so that hung ones are replaced",
    )  # fmt: skip
    DUE_LATER = (
        "DUE_LATER", Kind.MESSAGE,
        "it was put for later, and its time has not come",
        "put(delay=) or put(at=); the server's clock counts",
        "wait until it is due",
    )  # fmt: skip
    RETRY_BACKOFF = (
        "RETRY_BACKOFF", Kind.MESSAGE,
        "its handler failed, and it comes back after a pause",
        "the retry policy waits longer after every failed attempt",
        "correct what the last error says before the next attempt; its last one makes it a dead letter",
    )  # fmt: skip
    RELEASE_BACKOFF = (
        "RELEASE_BACKOFF", Kind.MESSAGE,
        "its handler put it back, and it comes back after a pause",
        "the handler raised Release: it was not the time, or not the worker, for this message",
        "wait, or see why the handler releases it",
    )  # fmt: skip
    DUE = (
        "DUE", Kind.MESSAGE,
        "its time has come; the next consumer that asks makes it ready",
        "delayed messages are moved to ready by the round trips of consumers, a bounded number each",
        "wait a moment; if it stays, see whether consumers are alive: reliq status",
    )  # fmt: skip
    ARRIVING = (
        "ARRIVING", Kind.MESSAGE,
        "it is on its way into the hands of a consumer",
        "a blocking read has brought it, and the consumer's next round trip claims it",
        "wait a moment; if it stays, the consumer is gone, and a reaper brings it back when its lease ends",
    )  # fmt: skip
    LEASED = (
        "LEASED", Kind.MESSAGE,
        "a consumer that is alive has claimed it: its handler runs, or is about to",
        "this is how messages are handled",
        "wait; if it takes too long, look at that process (py-spy dump --pid PID shows where it is)",
    )  # fmt: skip
    LEASE_EXPIRED = (
        "LEASE_EXPIRED", Kind.MESSAGE,
        "the consumer that has claimed it has let its lease end; a reaper brings it back",
        "its process died with its host, is stopped, sleeps, or cannot reach Redis",
        "every worker reaps within a second; if none runs: reliq reap",
    )  # fmt: skip
    CONSUMER_DIED = (
        "CONSUMER_DIED", Kind.MESSAGE,
        "the consumer that has claimed it was seen to die; a reaper brings it back",
        "its supervisor saw the process end, and something was left in its hands",
        "every worker reaps within a minute; at once: reliq reap",
    )  # fmt: skip
    UNREGISTERED = (
        "UNREGISTERED", Kind.MESSAGE,
        "it is in the list of a consumer that nobody registered",
        "the registration was deleted, or a read of a dead consumer was executed late",
        "workers find such lists within some minutes and bring them back; at once: reliq reap",
    )  # fmt: skip
    MOVING = (
        "MOVING", Kind.MESSAGE,
        "it exists, and moved on whenever it was looked for",
        "it is put back, retried or reaped many times a second",
        "ask again; if it goes on, see the handler that puts it back",
    )  # fmt: skip
    DONE = (
        "DONE", Kind.MESSAGE,
        "it was put, and is nowhere any more: it was handled and acked",
        "a message is gone only when its ack was accepted, or a person removed it",
        "nothing is to be done",
    )  # fmt: skip
    REMOVED = (
        "REMOVED", Kind.MESSAGE,
        "it was a dead letter, and is nowhere any more",
        "it was removed, or revived and then handled",
        "nothing is to be done; if it is missed, put it again",
    )  # fmt: skip
    DONE_OR_NEVER_PUT = (
        "DONE_OR_NEVER_PUT", Kind.MESSAGE,
        "it is nowhere in the queue: it was handled and acked, or it never came here",
        "an ack leaves no trace, so that the usual way costs nothing",
        "compare the id, --url and --prefix with those of its put; a Receipt is the id of an accepted put",
    )  # fmt: skip
    UNSEARCHED = (
        "UNSEARCHED", Kind.MESSAGE,
        "it is not where its id says; the rest of the queue was not read",
        "a quick look was asked for; messages that went back, or of clocks that differ, stand elsewhere",
        "search all of it: reliq explain without --quick, explain() without deep=False",
    )  # fmt: skip
    UNKNOWN_QUEUE = (
        "UNKNOWN_QUEUE", Kind.MESSAGE,
        "there is no queue of this name",
        "nothing was ever put into it under this prefix, and no worker was started for it",
        "correct the name, --prefix or --url; reliq status lists the queues",
    )  # fmt: skip

    # -- why a message was given up: stored without the first word ------------------------------------------

    DEAD_ATTEMPTS = (
        "DEAD_ATTEMPTS", Kind.DEAD,
        "its handler failed as often as the policy allows",
        "an exception in the handler at every attempt; the last one is kept with its traceback",
        "correct what the traceback shows, then put it back",
    )  # fmt: skip
    DEAD_POISON = (
        "DEAD_POISON", Kind.DEAD,
        "its workers died while they had it in hand, as often as max_losses allows",
        "it makes the process crash, run out of memory, or hang past its timeout",
        "handle it alone under a debugger; put it back when the handler survives it",
    )  # fmt: skip
    DEAD_BURIED = (
        "DEAD_BURIED", Kind.DEAD,
        "its handler said that it cannot be done",
        "raise Bury(...) or lease.bury(...) in the handler",
        "see its reason; put it back if that no longer holds",
    )  # fmt: skip
    DEAD_UNDECODABLE = (
        "DEAD_UNDECODABLE", Kind.DEAD,
        "its body cannot be read",
        "the producer wrote another format than the queue's codec, or the bytes were damaged",
        "give the queue the producer's codec=, or correct the producer; then put it back",
    )  # fmt: skip
    DEAD_UNSUPPORTED_VERSION = (
        "DEAD_UNSUPPORTED_VERSION", Kind.DEAD,
        "it is in a format that this release does not know",
        "a newer release put it; consumers have to be upgraded before producers",
        "upgrade the workers, then put it back",
    )  # fmt: skip
    DEAD_BAD_LENGTH = (
        "DEAD_BAD_LENGTH", Kind.DEAD,
        "its envelope does not have the length that it says",
        "a foreign producer writes envelopes that are wrong",
        "correct that producer: the format is in reliq/core/wire.md",
    )  # fmt: skip
    DEAD_BAD_META = (
        "DEAD_BAD_META", Kind.DEAD,
        "the meta of its envelope cannot be read",
        "a foreign producer writes envelopes that are wrong",
        "correct that producer: the format is in reliq/core/wire.md",
    )  # fmt: skip
    DEAD_BAD_NOTE = (
        "DEAD_BAD_NOTE", Kind.DEAD,
        "it is among the dead letters, and the note about it cannot be read",
        "another program wrote into the list of dead letters",
        "see what it is: reliq peek --state dead --full",
    )  # fmt: skip
    DEAD_TOO_LARGE = (
        "DEAD_TOO_LARGE", Kind.DEAD,
        "it is a raw body of more than 256 MiB, which could not be acked",
        "a foreign producer pushed it",
        "put the data into a store and send its address",
    )  # fmt: skip
    DEAD_OTHER = (
        "DEAD_OTHER", Kind.DEAD,
        "its handler gave it up with a code of its own",
        "raise DecodeError(CODE, ...) in the handler or in a codec",
        "see what that code means in your own program",
    )  # fmt: skip

    # -- what is wrong with a queue -------------------------------------------------------------------------

    DEAD_LETTERS = (
        "DEAD_LETTERS", Kind.QUEUE,
        "there are messages that were given up",
        "handlers failed too often, workers died, or bodies could not be read",
        "see why: reliq peek --state dead",
    )  # fmt: skip
    HELD_BY_DEAD = (
        "HELD_BY_DEAD", Kind.QUEUE,
        "consumers that are gone hold messages",
        "they died without a goodbye, and no worker or reaper has run since",
        "bring them back: reliq reap",
    )  # fmt: skip
    OTHER_LIST = (
        "OTHER_LIST", Kind.QUEUE,
        "messages lie in the queue's usual list, and the queue has adopted another one",
        "a producer names the queue without the key= that its consumers name",
        "name key= there too, and move what is there as reliq status says",
    )  # fmt: skip

    # -- why a call failed: the codes of reliq.errors -------------------------------------------------------

    RELIQ = (
        "RELIQ", Kind.ERROR,
        "something went wrong in reliq",
        "the base of all its errors",
        "see what the message says",
    )  # fmt: skip
    CONFIG = (
        "CONFIG", Kind.ERROR,
        "a setting, a name or an argument is wrong; nothing was sent",
        "the message names it",
        "correct the call, the option or the environment variable that it names",
    )  # fmt: skip
    BODY = (
        "BODY", Kind.ERROR,
        "the codec cannot encode this body; nothing was sent",
        "it holds objects that msgpack or JSON have no form for",
        "send plain data, or give the queue a codec of your own",
    )  # fmt: skip
    BODY_TOO_LARGE = (
        "BODY_TOO_LARGE", Kind.ERROR,
        "the encoded body is over max_body; nothing was sent",
        "large data belongs beside the queue",
        "put the data into a store and send its address, or raise max_body",
    )  # fmt: skip
    NOT_AN_ENVELOPE = (
        "NOT_AN_ENVELOPE", Kind.ERROR,
        "these bytes are no message of reliq",
        "a raw body of a foreign producer, or bytes from elsewhere",
        "nothing is to be done if another program put them: the claim makes a message of them",
    )  # fmt: skip
    REFUSED = (
        "REFUSED", Kind.ERROR,
        "Redis, or the way to it, said no before anything was executed",
        "the message says what Redis answered",
        "do what it says; repeating is safe",
    )  # fmt: skip
    QUEUE_FULL = (
        "QUEUE_FULL", Kind.ERROR,
        "Redis is at maxmemory and takes no more; claims and acks still work",
        "more is put than is handled, or maxmemory is too small",
        "let consumers drain it, raise maxmemory, or wait and put again",
    )  # fmt: skip
    UNAVAILABLE = (
        "UNAVAILABLE", Kind.ERROR,
        "Redis is not there, or cannot serve at the moment; nothing was executed",
        "it is down, unreachable, loading, failing over, or the URL is wrong",
        "check that it runs and that RELIQ_URL or url= names it; repeating is safe",
    )  # fmt: skip
    ACCESS_DENIED = (
        "ACCESS_DENIED", Kind.ERROR,
        "a password is missing or wrong, or the ACL user may not do this",
        "the URL has no password, or the user lacks keys or commands",
        "put user and password into the URL; grant the user the keys of the prefix, and +@all on them",
    )  # fmt: skip
    WRONG_KEY_TYPE = (
        "WRONG_KEY_TYPE", Kind.ERROR,
        "a key of the queue holds another type of value; nothing was executed",
        "another program uses a key of this name",
        "choose another queue name or prefix, or remove that key",
    )  # fmt: skip
    UNSUPPORTED_SERVER = (
        "UNSUPPORTED_SERVER", Kind.ERROR,
        "the server is too old for what was asked, or is not Redis",
        "reliq needs Redis 6.2 (BLMOVE), and put(fsync=True) 7.2 (WAITAOF)",
        "upgrade the server, or point RELIQ_URL at a newer one",
    )  # fmt: skip
    OUTCOME_UNKNOWN = (
        "OUTCOME_UNKNOWN", Kind.ERROR,
        "it was sent and no answer came: it may have been executed, or not",
        "the connection broke, Redis died or was too slow, or fewer replicas confirmed than were asked for",
        "give the error to queue.repeat(): it sends the same again, and the server keeps one copy",
    )  # fmt: skip
    PUT_MANY = (
        "PUT_MANY", Kind.ERROR,
        "a put_many went through in part",
        "Redis refused or fell silent between two of its round trips",
        "see .accepted, .refused and .unknown; queue.repeat(error) settles what is unknown",
    )  # fmt: skip
    LEASE_LOST = (
        "LEASE_LOST", Kind.ERROR,
        "this settle came too late: the message is no longer this consumer's",
        "the process slept, hung or was cut off for longer than the lease, and another one got the message",
        "make the effect safe to repeat (the fence helps); raise lease= if handlers block the process for so long",
    )  # fmt: skip
    CONSUMER_CLOSED = (
        "CONSUMER_CLOSED", Kind.ERROR,
        "the consumer is closed, or belongs to the parent of this process",
        "it was used after its with block, or inherited by a fork",
        "open a consumer of its own in each process",
    )  # fmt: skip
    EMBEDDED_UNAVAILABLE = (
        "EMBEDDED_UNAVAILABLE", Kind.ERROR,
        "no URL was given, and no private Redis can be started here",
        "there is no redis-server, or RELIQ_EMBEDDED=0 forbids it",
        "set RELIQ_URL, install redis-server, or name one with RELIQ_REDIS_SERVER",
    )  # fmt: skip

    # -- what a handler said --------------------------------------------------------------------------------

    VERDICT = (
        "VERDICT", Kind.VERDICT,
        "a handler said what becomes of its message",
        "the base of Bury, Release and RetryAfter",
        "raise one of those",
    )  # fmt: skip
    RELEASED = (
        "RELEASED", Kind.VERDICT,
        "a handler put its message back; it counts no failure and comes back after a second",
        "raise Release(...)",
        "nothing is to be done",
    )  # fmt: skip
    RETRY_AFTER = (
        "RETRY_AFTER", Kind.VERDICT,
        "a handler said when its message is to come back; it counts as a failed attempt",
        "raise RetryAfter(seconds)",
        "nothing is to be done",
    )  # fmt: skip


#: How a message is that goes its usual way: nobody need do anything.
USUAL: Final = frozenset(
    {
        *(Reason.WAITING_TURN, Reason.SUSPECT_WAITS, Reason.DUE_LATER, Reason.DUE, Reason.ARRIVING),
        *(Reason.RETRY_BACKOFF, Reason.RELEASE_BACKOFF, Reason.LEASED, Reason.MOVING, Reason.DONE),
    }
)

#: Before the cause that a dead letter stores.
_DEAD: Final = "DEAD_"


def of_cause(cause: object) -> Reason:
    """The reason for the cause that a death note stores; DEAD_OTHER for a code that is not ours."""
    found = Reason.__members__.get(f"{_DEAD}{cause}")
    return found if found is not None and found.kind is Kind.DEAD else Reason.DEAD_OTHER


def find(word: str) -> Reason | None:
    """The reason of this code, however it is written: ``waiting-turn`` and a stored cause (``ATTEMPTS``) too."""
    code = word.strip().upper().replace("-", "_")
    return Reason.__members__.get(code) or Reason.__members__.get(f"{_DEAD}{code}")
