"""Why: the closed vocabulary of reason codes, each with what it means, where it comes from, and what to do.

The same codes are in errors (``error.code``), in what ``explain``, ``status`` and ``doctor`` say, and in their
JSON. A code is stable: its texts may change, its meaning does not, and no code is ever used for something else.

A dead letter stores its cause without the first word: ``ATTEMPTS`` is DEAD_ATTEMPTS. A handler may die with a
code of its own (``raise DecodeError("NO_SUCH_FORMAT", ...)``); such a cause is DEAD_OTHER.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from reliq.core.reasons import dead, error, message, queue, server, verdict


class Kind(str, Enum):
    """What a reason is about."""

    MESSAGE = "where a message is, and why it is not further"
    DEAD = "why a message was given up"
    QUEUE = "what is wrong with a queue"
    SERVER = "what is wrong with a server, or with the way to it"
    ERROR = "why a call failed"
    VERDICT = "what a handler said"


_TEXTS: Final = {
    code: (kind, *texts)
    for kind, all_of_it in (
        (Kind.MESSAGE, message.TEXTS),
        (Kind.DEAD, dead.TEXTS),
        (Kind.QUEUE, queue.TEXTS),
        (Kind.SERVER, server.TEXTS),
        (Kind.ERROR, error.TEXTS),
        (Kind.VERDICT, verdict.TEXTS),
    )
    for code, texts in all_of_it.items()
}


class Reason(str, Enum):
    """One reason: its code (it is that text), its kind, what it means, where it comes from, what to do now. Here
    is the list; the texts of each kind are in a file of its own."""

    kind: Kind
    summary: str
    cause: str
    remedy: str

    def __new__(cls, code: str) -> Reason:
        made = str.__new__(cls, code)
        made._value_ = code
        made.kind, made.summary, made.cause, made.remedy = _TEXTS[code]
        return made

    def __str__(self) -> str:
        return self.name

    # -- where a message is, and why it is not further --------------------------------------------------

    WAITING_TURN = "WAITING_TURN"
    PAUSED = "PAUSED"
    LIMITED = "LIMITED"
    SUSPECT_WAITS = "SUSPECT_WAITS"
    NO_CONSUMERS = "NO_CONSUMERS"
    CONSUMERS_STALLED = "CONSUMERS_STALLED"
    DUE_LATER = "DUE_LATER"
    AWAITS_TURN = "AWAITS_TURN"
    GATHERING = "GATHERING"
    RETRY_BACKOFF = "RETRY_BACKOFF"
    RELEASE_BACKOFF = "RELEASE_BACKOFF"
    NO_HANDLER = "NO_HANDLER"
    DUE = "DUE"
    ARRIVING = "ARRIVING"
    LEASED = "LEASED"
    HANDLER_SLOW = "HANDLER_SLOW"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    CONSUMER_DIED = "CONSUMER_DIED"
    UNREGISTERED = "UNREGISTERED"
    WORKER_LOST = "WORKER_LOST"
    IN_BATCH = "IN_BATCH"
    MOVING = "MOVING"
    DONE = "DONE"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    REPLACED = "REPLACED"
    REMOVED = "REMOVED"
    VANISHED = "VANISHED"
    DONE_OR_FORGOTTEN = "DONE_OR_FORGOTTEN"
    DONE_OR_NEVER_PUT = "DONE_OR_NEVER_PUT"
    UNSEARCHED = "UNSEARCHED"
    UNKNOWN_QUEUE = "UNKNOWN_QUEUE"

    # -- why a message was given up: stored without the first word --------------------------------------

    DEAD_ATTEMPTS = "DEAD_ATTEMPTS"
    DEAD_GIVEN_UP = "DEAD_GIVEN_UP"
    DEAD_TOO_OLD = "DEAD_TOO_OLD"
    DEAD_EXPIRED = "DEAD_EXPIRED"
    DEAD_NO_HANDLER = "DEAD_NO_HANDLER"
    DEAD_PURGED = "DEAD_PURGED"
    DEAD_POISON = "DEAD_POISON"
    DEAD_BURIED = "DEAD_BURIED"
    DEAD_UNDECODABLE = "DEAD_UNDECODABLE"
    DEAD_UNSUPPORTED_VERSION = "DEAD_UNSUPPORTED_VERSION"
    DEAD_BAD_LENGTH = "DEAD_BAD_LENGTH"
    DEAD_BAD_META = "DEAD_BAD_META"
    DEAD_BAD_NOTE = "DEAD_BAD_NOTE"
    DEAD_TOO_LARGE = "DEAD_TOO_LARGE"
    DEAD_BODY_MISSING = "DEAD_BODY_MISSING"
    DEAD_OTHER = "DEAD_OTHER"

    # -- what is wrong with a queue ---------------------------------------------------------------------

    DEAD_LETTERS = "DEAD_LETTERS"
    HELD_BY_DEAD = "HELD_BY_DEAD"
    OTHER_LIST = "OTHER_LIST"
    DEAD_GROWING = "DEAD_GROWING"
    OLD_BACKLOG = "OLD_BACKLOG"
    DEEP_BACKLOG = "DEEP_BACKLOG"
    BACKLOG_GROWS = "BACKLOG_GROWS"
    TOO_FEW_WORKERS = "TOO_FEW_WORKERS"
    CLAIM_LOOP_STALLED = "CLAIM_LOOP_STALLED"
    HANDLER_STUCK = "HANDLER_STUCK"
    WORKERS_DIE = "WORKERS_DIE"
    OVERDUE = "OVERDUE"
    TICKS_LATE = "TICKS_LATE"
    LATE_RENEWAL = "LATE_RENEWAL"
    STRAY_LISTS = "STRAY_LISTS"
    INBOX_LEFTOVERS = "INBOX_LEFTOVERS"
    STALE_REGISTRATION = "STALE_REGISTRATION"
    DUPLICATE = "DUPLICATE"
    UNREADABLE = "UNREADABLE"
    ORPHAN_BODY = "ORPHAN_BODY"
    ORPHAN_UNIQUE = "ORPHAN_UNIQUE"
    LOST_TURN = "LOST_TURN"
    LOST_PLACE = "LOST_PLACE"
    FOREIGN_KEY = "FOREIGN_KEY"
    LOST_QUEUE = "LOST_QUEUE"
    UNREADABLE_INDEX = "UNREADABLE_INDEX"
    SHARED_LIST = "SHARED_LIST"
    SPLIT_SLOTS = "SPLIT_SLOTS"
    NEWER_FORMAT = "NEWER_FORMAT"
    OTHER_SETTINGS = "OTHER_SETTINGS"
    TIMEOUT_OVER_LEASE = "TIMEOUT_OVER_LEASE"
    CONNECT_OVER_LEASE = "CONNECT_OVER_LEASE"
    BODY_OVER_LIMIT = "BODY_OVER_LIMIT"

    # -- what is wrong with a server, or with the way to it ---------------------------------------------

    OLD_SERVER = "OLD_SERVER"
    READ_ONLY_REPLICA = "READ_ONLY_REPLICA"
    NOT_PERSISTED = "NOT_PERSISTED"
    UNSYNCED_WRITES = "UNSYNCED_WRITES"
    SAVE_FAILED = "SAVE_FAILED"
    NO_REPLICA = "NO_REPLICA"
    TOO_FEW_REPLICAS = "TOO_FEW_REPLICAS"
    REPLICA_LAGS = "REPLICA_LAGS"
    UNGUARDED_FAILOVER = "UNGUARDED_FAILOVER"
    ROLLED_BACK = "ROLLED_BACK"
    EVICTION = "EVICTION"
    MEMORY_LOW = "MEMORY_LOW"
    LARGE_QUEUE = "LARGE_QUEUE"
    MEMORY_UNLIMITED = "MEMORY_UNLIMITED"
    FRAGMENTED_MEMORY = "FRAGMENTED_MEMORY"
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    KEEPALIVE_OFF = "KEEPALIVE_OFF"
    MANY_CLIENTS = "MANY_CLIENTS"
    SLOW_SCRIPTS = "SLOW_SCRIPTS"
    SLOW_NETWORK = "SLOW_NETWORK"
    CLOCK_SKEW = "CLOCK_SKEW"
    CLUSTER_BROKEN = "CLUSTER_BROKEN"
    MISSING_RIGHTS = "MISSING_RIGHTS"
    FORBIDDEN_KEYS = "FORBIDDEN_KEYS"

    # -- why a call failed: the codes of reliq.errors ---------------------------------------------------

    RELIQ = "RELIQ"
    CONFIG = "CONFIG"
    BODY = "BODY"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    NOT_AN_ENVELOPE = "NOT_AN_ENVELOPE"
    REFUSED = "REFUSED"
    QUEUE_DRAINING = "QUEUE_DRAINING"
    MOVED_ON = "MOVED_ON"
    QUEUE_FULL = "QUEUE_FULL"
    UNAVAILABLE = "UNAVAILABLE"
    POOL_EXHAUSTED = "POOL_EXHAUSTED"
    ACCESS_DENIED = "ACCESS_DENIED"
    WRONG_KEY_TYPE = "WRONG_KEY_TYPE"
    QUEUE_HELD = "QUEUE_HELD"
    NEWER_SCHEMA = "NEWER_SCHEMA"
    UNSUPPORTED_SERVER = "UNSUPPORTED_SERVER"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    PUT_MANY = "PUT_MANY"
    RESULT = "RESULT"
    RESULT_PENDING = "RESULT_PENDING"
    RESULT_MISSING = "RESULT_MISSING"
    MESSAGE_FAILED = "MESSAGE_FAILED"
    LEASE_LOST = "LEASE_LOST"
    CONSUMER_CLOSED = "CONSUMER_CLOSED"
    START_FAILED = "START_FAILED"
    EMBEDDED_UNAVAILABLE = "EMBEDDED_UNAVAILABLE"

    # -- what a handler said ----------------------------------------------------------------------------

    VERDICT = "VERDICT"
    RELEASED = "RELEASED"
    RETRY_AFTER = "RETRY_AFTER"
    BATCH_FAILED = "BATCH_FAILED"


#: How a message is that goes its usual way: nobody need do anything.
USUAL: Final = frozenset(
    {
        *(Reason.WAITING_TURN, Reason.SUSPECT_WAITS, Reason.DUE_LATER, Reason.DUE, Reason.ARRIVING),
        *(Reason.AWAITS_TURN, Reason.GATHERING),
        *(Reason.RETRY_BACKOFF, Reason.RELEASE_BACKOFF, Reason.LEASED, Reason.MOVING, Reason.DONE),
        *(Reason.IN_BATCH, Reason.CANCELLED, Reason.CANCELLING),
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
