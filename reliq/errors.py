"""Every error that reliq raises, in one tree, split by whose turn it is to act.

::

    ReliqError
    ├── ConfigError            (ValueError)       the call or a setting is wrong: fix the code
    ├── BodyError              (ValueError)       this body cannot be sent: fix the body
    │   └── BodyTooLarge
    ├── DecodeError            (ValueError)       these bytes cannot be read (they are kept, dead-lettered)
    ├── Refused                                   certainly NOT executed: repeating is safe
    │   ├── QueueFull                             Redis is out of memory; consumers still drain it
    │   ├── Unavailable        (ConnectionError)  Redis cannot be reached, or cannot serve just now
    │   ├── PoolExhausted                         all connections were in use for too long
    │   ├── AccessDenied       (PermissionError)  password or ACL
    │   ├── WrongKeyType       (TypeError)        a key of the queue holds something else
    │   ├── MovedOn                               a message was never still for long enough to be cancelled
    │   ├── QueueHeld                             somebody is there, and the exclusive mode wants to be alone
    │   ├── QueueDraining                         the queue takes no more puts, somebody has said
    │   ├── NewerSchema                           a later release has changed the keys: upgrade this one
    │   └── UnsupportedServer                     older than Redis 6.2, or than what was asked of it
    ├── OutcomeUnknown         (TimeoutError)     sent, but the answer was lost: it may have run
    ├── PutManyError                              a part of a put_many: .accepted .refused .unknown
    ├── ResultError                               the result that was waited for is not there
    │   ├── ResultPending      (TimeoutError)     its message has not ended in time
    │   ├── ResultMissing      (LookupError)      and never will be: not asked for, not kept so long, too large
    │   └── MessageFailed                         its message was not done: .cause .error .traceback
    ├── LeaseLost                                 this settle came too late: another consumer has the message
    ├── ConsumerClosed         (RuntimeError)     used after close, or inherited by a forked child
    ├── StartFailed            (RuntimeError)     the lifespan of a worker failed: nothing was claimed
    ├── EmbeddedUnavailable    (RuntimeError)     no URL was given and no private Redis can be started
    └── Verdict                                   raised BY a handler, to say what becomes of its message
        ├── Bury                                  dead-letter it, now
        ├── Release                               put it back unprocessed; counts no failed attempt
        ├── RetryAfter                            retry it after so many seconds
        └── BatchFailed                           of a batch these failed, and the others are done

Every message names the thing, the reason and the next step. ``code`` is stable across releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reliq.core.command import Command


class ReliqError(Exception):
    """The base of everything that reliq raises."""

    code = "RELIQ"


class ConfigError(ReliqError, ValueError):
    """A setting, a name or an argument is wrong; nothing was sent."""

    code = "CONFIG"


class BodyError(ReliqError, ValueError):
    """The codec cannot encode this body; nothing was sent."""

    code = "BODY"


class BodyTooLarge(BodyError):
    """The encoded body is over the limit; nothing was sent."""

    code = "BODY_TOO_LARGE"


class DecodeError(ReliqError, ValueError):
    """These bytes are not what they should be. ``code`` is the cause under which they are dead-lettered."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refused(ReliqError):
    """Redis (or the way to it) said no before anything was executed. Repeating is safe."""

    code = "REFUSED"


class QueueFull(Refused):
    """Redis is at ``maxmemory`` and refuses to take more. Claims and acks still work."""

    code = "QUEUE_FULL"


class Unavailable(Refused, ConnectionError):
    """Redis is not there, or not able to serve at the moment (loading, failing over, read-only replica)."""

    code = "UNAVAILABLE"


class PoolExhausted(Refused):
    """All connections of the pool were in use for ``pool_wait`` seconds; nothing was sent."""

    code = "POOL_EXHAUSTED"


class AccessDenied(Refused, PermissionError):
    """A password is missing or wrong, or the ACL user may not do this."""

    code = "ACCESS_DENIED"


class WrongKeyType(Refused, TypeError):
    """A key that belongs to the queue holds another type of value."""

    code = "WRONG_KEY_TYPE"


class MovedOn(Refused):
    """A message that was to be cancelled or given another time had moved on whenever it was looked for."""

    code = "MOVED_ON"


class QueueHeld(Refused):
    """Somebody holds the queue for himself alone (``exclusive``), or it cannot be had so, as others are there.

    ``names``: who that is; ``left``: seconds of his lease, as far as that says when it is worth trying again.
    """

    code = "QUEUE_HELD"

    def __init__(self, message: str, *, names: Sequence[str] = (), left: float = 0.0) -> None:
        super().__init__(message)
        self.names = list(names)
        self.left = left


class QueueDraining(Refused):
    """The queue takes no more puts (``drain``); what is in it is worked off."""

    code = "QUEUE_DRAINING"


class NewerSchema(Refused):
    """A later release has changed what the keys of this queue mean, so that this one would do harm to it."""

    code = "NEWER_SCHEMA"


class UnsupportedServer(Refused):
    """The server is older than Redis 6.2 (for put(fsync=True): 7.2), or is not Redis."""

    code = "UNSUPPORTED_SERVER"


class OutcomeUnknown(ReliqError, TimeoutError):
    """The command was sent and its answer never came, so it may or may not have been executed.

    For a put, ``ids`` are the messages concerned and ``queue.repeat(error)`` sends exactly the same
    once more: the server recognises it and keeps one copy (for an hour, see the defaults). If fewer
    replicas confirmed than were asked for, ``ids`` are receipts that say how many did.
    """

    code = "OUTCOME_UNKNOWN"

    def __init__(self, message: str, *, ids: Sequence[str] = (), replay: Command | None = None) -> None:
        super().__init__(message)
        self.ids = list(ids)
        self.replay = replay


class PutManyError(ReliqError):
    """A ``put_many`` that went through in part: which ids are in, which are not, which may be."""

    code = "PUT_MANY"

    def __init__(
        self,
        message: str,
        *,
        accepted: Sequence[str],
        refused: Sequence[str],
        unknown: Sequence[str],
        replay: Command | None = None,
    ) -> None:
        super().__init__(message)
        self.accepted = list(accepted)
        self.refused = list(refused)
        self.unknown = list(unknown)
        self.replay = replay


class ResultError(ReliqError):
    """There is no result for whoever has waited for one."""

    code = "RESULT"


class ResultPending(ResultError, TimeoutError):
    """The message has not ended within the timeout. It can be waited for again."""

    code = "RESULT_PENDING"


class ResultMissing(ResultError, LookupError):
    """There is none, and there will be none: the put did not ask, it was kept for long enough, or it was too large
    or of a kind that cannot be kept."""

    code = "RESULT_MISSING"


class MessageFailed(ResultError):
    """The message ended, and was not done: dead-lettered, cancelled, replaced or purged.

    ``cause``: the code, as of a dead letter, or CANCELLED, REPLACED, PURGED; ``error``: its last failure, in one
    line; ``traceback``: where that was, in the worker, as text ("" if there is none).
    """

    code = "MESSAGE_FAILED"

    def __init__(self, message: str, *, cause: str = "", error: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.cause, self.error, self.traceback = cause, error, traceback
        if traceback:
            self.__cause__ = RemoteTraceback(traceback)


class RemoteTraceback(ReliqError):
    """Shows, above the error of who waits, where the handler has failed."""

    def __str__(self) -> str:
        return f"in the worker\n{self.args[0]}"


class LeaseLost(ReliqError):
    """The message is no longer this consumer's: its lease ended and it was given to another."""

    code = "LEASE_LOST"


class ConsumerClosed(ReliqError, RuntimeError):
    """The consumer is closed, or belongs to the parent of this forked process."""

    code = "CONSUMER_CLOSED"


class StartFailed(ReliqError, RuntimeError):
    """The lifespan of a worker failed before it yielded, or lacks what a handler needs. Nothing was claimed."""

    code = "START_FAILED"


class EmbeddedUnavailable(ReliqError, RuntimeError):
    """There is no URL and no private Redis can be started here."""

    code = "EMBEDDED_UNAVAILABLE"


class Verdict(ReliqError):
    """Raised by a handler to settle its message in another way than ack or retry by policy."""

    code = "VERDICT"


class Bury(Verdict):
    """Dead-letter the message now, whatever attempts are left: ``raise reliq.Bury("no such account")``."""

    code = "BURIED"


def given(value: object) -> str:
    """What was given where seconds belong, for people: a timedelta has them."""
    return f"{value!r}, use its .total_seconds()" if isinstance(value, timedelta) else repr(value)


class Release(Verdict):
    """Put the message back unprocessed. It counts no failed attempt and comes back after a second, or so many
    ``seconds``, so that a handler which always releases is no hot loop."""

    code = "RELEASED"
    seconds: float | None = None

    def __init__(self, reason: str = "", seconds: float | None = None) -> None:
        super().__init__(reason)
        if seconds is not None and not isinstance(seconds, int | float):
            raise ConfigError(f"Release(seconds={given(seconds)}): a number of seconds, or None: 1")
        self.seconds = seconds


class RetryAfter(Verdict):
    """Retry after ``seconds``, whatever the policy's wait says; it counts as a failed attempt."""

    code = "RETRY_AFTER"

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"retry after {seconds} s")
        if not isinstance(seconds, int | float):
            raise ConfigError(f"RetryAfter({given(seconds)}): a number of seconds")
        self.seconds = seconds


class BatchFailed(Verdict):
    """Raised by a handler of batches (``@q.ack(batch=)``): these messages failed, the others are done.

    ``failures``: by index in its list, or by id, what each failed with: an exception, which is judged as if it had
    been raised for that message alone (Bury, Release and RetryAfter too), its class, or a text.
    """

    code = "BATCH_FAILED"

    def __init__(self, failures: Mapping[int | str, BaseException | type[BaseException] | str]) -> None:
        if not isinstance(failures, Mapping):
            raise TypeError(
                f"BatchFailed({failures!r:.80}): what failed, by index or id, as in "
                "BatchFailed({3: ConnectionError('too busy')})"
            )
        super().__init__(f"{len(failures)} message{'' if len(failures) == 1 else 's'} of a batch failed")
        self.failures = {key: _raised(each) for key, each in failures.items()}


def _raised(said: BaseException | type[BaseException] | str) -> BaseException:
    """As ``raise`` takes it: a class is one of it."""
    if isinstance(said, type) and issubclass(said, BaseException):
        return said()
    return said if isinstance(said, BaseException) else RuntimeError(said)
