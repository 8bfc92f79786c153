"""Why: the closed vocabulary of reason codes, each with what it means, where it comes from, and what to do.

The same codes are in errors (``error.code``), in what ``explain``, ``status`` and ``doctor`` say, and in their
JSON. A code is stable: its texts may change, its meaning does not, and no code is ever used for something else.

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
    SERVER = "what is wrong with a server, or with the way to it"
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
    PAUSED = (
        "PAUSED", Kind.MESSAGE,
        "it is ready, and nobody may claim it: the queue is paused",
        "somebody has said so, to hold a deployment or a broken service off",
        "let it go on: reliq resume",
    )  # fmt: skip
    LIMITED = (
        "LIMITED", Kind.MESSAGE,
        "it is ready, and as many are in hand as the queue's limit allows",
        "the limit is lower than what comes in; or a worker that died still holds some, until its lease ends",
        "wait; or raise the limit: reliq limit --concurrency, of each tenant --tenant-concurrency",
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
        "put(delay=), put(at=) or a reschedule; the server's clock counts",
        "wait until it is due",
    )  # fmt: skip
    AWAITS_TURN = (
        "AWAITS_TURN", Kind.MESSAGE,
        "it waits for an earlier message with the same ordering key",
        "put(ordering_key=): one of them is handled at a time, in order, and an earlier one is not done",
        "see why that one is not done: reliq explain with its id",
    )  # fmt: skip
    GATHERING = (
        "GATHERING", Kind.MESSAGE,
        "it waits for others of its group, to be handled together with them",
        "put(group=): some of a group come together, when none has come for a while, or enough have",
        "wait until it is time; to have it sooner put with a shorter grace, or max_delay",
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
    NO_HANDLER = (
        "NO_HANDLER", Kind.MESSAGE,
        "no worker that has claimed it handles its type, so it comes back after a pause, each time a longer one",
        "no handler has this type= and none is without one; its worker is not started, or the type is misspelt",
        "start a worker whose module has @q.ack(type=...) for it; if nobody is to handle it: reliq cancel ID",
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
    HANDLER_SLOW = (
        "HANDLER_SLOW", Kind.MESSAGE,
        "its handler has it in hand for longer than it is expected to take",
        "the handler waits for something, or has much to do; its stack shows where it is",
        "see the stack; to give it to another worker: reliq workers stop NAME; handlers with a timeout= end by "
        "themselves",
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
    WORKER_LOST = (
        "WORKER_LOST", Kind.MESSAGE,
        "it was handed out again, as a worker was lost with it in hand",
        "its process died, or was silent for longer than its lease; it may have done the work, or a part of it",
        "make the effect safe to repeat: write lease.id or lease.fence with it",
    )  # fmt: skip
    IN_BATCH = (
        "IN_BATCH", Kind.MESSAGE,
        "it is in the batch that somebody has in hand who holds the queue for himself alone",
        "the exclusive mode leaves messages in their place until their batch is done",
        "wait; if it takes long, look at that program",
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
    CANCELLING = (
        "CANCELLING", Kind.MESSAGE,
        "it was cancelled while a consumer had it in hand: it is not handed out again",
        "somebody called cancel with its id; its handler is told, and ends when it heeds that",
        "wait; a handler that takes long has to look at lease.cancelled, or be a coroutine",
    )  # fmt: skip
    CANCELLED = (
        "CANCELLED", Kind.MESSAGE,
        "it was cancelled, and no handler gets it (again)",
        "somebody called cancel with its id, or said reliq cancel ID",
        "nothing is to be done; if it is missed, put it again",
    )  # fmt: skip
    REPLACED = (
        "REPLACED", Kind.MESSAGE,
        "another message was put in its place before a handler began with it",
        "both are unique by the same key, and the put of the other one said on_conflict='replace'",
        "nothing: the other one is handled",
    )  # fmt: skip
    REMOVED = (
        "REMOVED", Kind.MESSAGE,
        "it was a dead letter, and is nowhere any more",
        "it was removed, or revived and then handled",
        "nothing is to be done; if it is missed, put it again",
    )  # fmt: skip
    VANISHED = (
        "VANISHED", Kind.MESSAGE,
        "it was put, no worker was ever given it, and it is nowhere any more",
        "somebody deleted keys or entries by hand (DEL, LREM, FLUSHDB), or Redis evicted or forgot them",
        "put it again; see whether Redis throws keys away: reliq doctor",
    )  # fmt: skip
    DONE_OR_FORGOTTEN = (
        "DONE_OR_FORGOTTEN", Kind.MESSAGE,
        "it is nowhere: it was handled and acked, or Redis has forgotten it",
        "soon after its put Redis failed over or was restarted, and what it confirmed last may be gone",
        "put it again with its id=, if its work is not done; put(replicas=1) and appendfsync always prevent it",
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
        "correct what the traceback shows, then: reliq dead revive ID",
    )  # fmt: skip
    DEAD_GIVEN_UP = (
        "DEAD_GIVEN_UP", Kind.DEAD,
        "its handler raised an error that its retry policy does not retry",
        "Retry(give_up_on=) names this error, or Retry(retry_on=) does not",
        "correct what the traceback shows, then: reliq dead revive ID",
    )  # fmt: skip
    DEAD_TOO_OLD = (
        "DEAD_TOO_OLD", Kind.DEAD,
        "its next attempt would have begun later after its put than its retry policy allows",
        "it failed, and with the wait that was due it would be older than Retry(max_age=)",
        "if it is still worth it: reliq dead revive ID, or give it a longer max_age",
    )  # fmt: skip
    DEAD_EXPIRED = (
        "DEAD_EXPIRED", Kind.DEAD,
        "nobody had begun with it when its time was over",
        "consumers came to it later than put(expires=) allows: too few of them, or an outage",
        "put its body again if it is still worth it (a revived one is over its time still); else reliq dead rm",
    )  # fmt: skip
    DEAD_NO_HANDLER = (
        "DEAD_NO_HANDLER", Kind.DEAD,
        "no handler of the worker that claimed it takes its type",
        "Queue(unrouted='bury'), and no handler has this type= and none is without one",
        "start a worker whose module has @q.ack(type=...) for it, then: reliq dead revive ID",
    )  # fmt: skip
    DEAD_PURGED = (
        "DEAD_PURGED", Kind.DEAD,
        "it was removed with all that waited, and came back from the export of that purge",
        "somebody has said `reliq purge --export`, and imported the file",
        "revive it if it is to be handled: reliq dead revive; else reliq dead rm",
    )  # fmt: skip
    DEAD_POISON = (
        "DEAD_POISON", Kind.DEAD,
        "its workers died while they had it in hand, as often as max_losses allows",
        "it makes the process crash, run out of memory, or hang past its timeout",
        "handle its body under a debugger (reliq dead show ID); once the handler survives: reliq dead revive ID",
    )  # fmt: skip
    DEAD_BURIED = (
        "DEAD_BURIED", Kind.DEAD,
        "its handler said that it cannot be done",
        "raise Bury(...) or lease.bury(...) in the handler",
        "see its reason; if that no longer holds: reliq dead revive ID",
    )  # fmt: skip
    DEAD_UNDECODABLE = (
        "DEAD_UNDECODABLE", Kind.DEAD,
        "its body cannot be read",
        "the producer wrote another format than the queue's codec, or the bytes were damaged",
        "give the queue the producer's codec=, then: reliq dead revive ID; or correct the producer",
    )  # fmt: skip
    DEAD_UNSUPPORTED_VERSION = (
        "DEAD_UNSUPPORTED_VERSION", Kind.DEAD,
        "it is in a format that this release does not know",
        "a newer release put it; consumers have to be upgraded before producers",
        "upgrade the workers, then: reliq dead revive ID",
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
        "see what it is: reliq dead ls",
    )  # fmt: skip
    DEAD_TOO_LARGE = (
        "DEAD_TOO_LARGE", Kind.DEAD,
        "it is a raw body of more than 256 MiB, which could not be acked",
        "a foreign producer pushed it",
        "put the data into a store and send its address",
    )  # fmt: skip
    DEAD_BODY_MISSING = (
        "DEAD_BODY_MISSING", Kind.DEAD,
        "its body, which lies beside the list, is gone",
        "that key was deleted by hand or evicted, or it is the second copy of a message that was acked",
        "put it again if its work is not done; see that maxmemory-policy is noeviction: reliq doctor",
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
        "see why: reliq dead ls",
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
    DEAD_GROWING = (
        "DEAD_GROWING", Kind.QUEUE,
        "messages were given up within the last hour",
        "handlers fail, workers die, or bodies cannot be read, and it goes on",
        "see why: reliq dead ls",
    )  # fmt: skip
    OLD_BACKLOG = (
        "OLD_BACKLOG", Kind.QUEUE,
        "the message that is claimed next was put long ago",
        "more is put than is handled, handlers hang, or it was put with a delay",
        "start more workers, or see what the handlers wait for; allow more with --max-age",
    )  # fmt: skip
    DEEP_BACKLOG = (
        "DEEP_BACKLOG", Kind.QUEUE,
        "more messages are to be done than is allowed",
        "more is put than is handled, or handlers hang",
        "start more workers, or see what the handlers wait for; allow more with --max-depth",
    )  # fmt: skip
    BACKLOG_GROWS = (
        "BACKLOG_GROWS", Kind.QUEUE,
        "more is put than is handled",
        "too few handlers run at once, or each takes long",
        "see where handlers are: reliq workers --stacks; start more workers, or raise --concurrency",
    )  # fmt: skip
    TOO_FEW_WORKERS = (
        "TOO_FEW_WORKERS", Kind.QUEUE,
        "fewer consumers are at work than are needed",
        "workers were not started, have stopped, or do not come through to Redis",
        "start more: reliq worker MODULE:HANDLER; reliq status shows who is there",
    )  # fmt: skip
    CLAIM_LOOP_STALLED = (
        "CLAIM_LOOP_STALLED", Kind.QUEUE,
        "a worker makes no round trips to Redis: it claims and settles nothing",
        "a handler holds the interpreter lock or blocks the event loop, or Redis does not answer",
        "see where that process is (py-spy dump --pid PID); give handlers a timeout=, or restart it",
    )  # fmt: skip
    HANDLER_STUCK = (
        "HANDLER_STUCK", Kind.QUEUE,
        "a handler is past its timeout and does not come back",
        "it waits for something for ever; a thread cannot be killed",
        "restart the worker; under reliq worker such a process is replaced by itself",
    )  # fmt: skip
    WORKERS_DIE = (
        "WORKERS_DIE", Kind.QUEUE,
        "worker processes die with messages in hand, and are replaced",
        "a handler ends or crashes its process, passes its timeout, or takes more memory than there is",
        "see what they had in hand: reliq tail --once --event reap; the worker's log says how they ended",
    )  # fmt: skip
    OVERDUE = (
        "OVERDUE", Kind.QUEUE,
        "scheduled messages are due, and nobody has made them ready",
        "no consumer is alive, or none of them makes round trips",
        "start a worker; if some run, restart those whose leases are not renewed: reliq status",
    )  # fmt: skip
    TICKS_LATE = (
        "TICKS_LATE", Kind.QUEUE,
        "ticks of schedules are due, and nobody fires them",
        "no worker or scheduler is alive or can read it (see their logs); Redis is full; the queue is drained",
        "start a worker, or: reliq schedule run; where they run, cron expressions need reliq[cron]",
    )  # fmt: skip
    LATE_RENEWAL = (
        "LATE_RENEWAL", Kind.QUEUE,
        "a consumer renews its lease late; if it ends, its messages are handled twice",
        "its process is stopped, starved of CPU or cut off, or a handler holds the interpreter lock",
        "look at that process and its host; raise lease= if such pauses are normal there",
    )  # fmt: skip
    STRAY_LISTS = (
        "STRAY_LISTS", Kind.QUEUE,
        "messages lie in lists of consumers that nobody registered",
        "the registration was deleted, or a read of a dead consumer was executed late",
        "bring them back: reliq reap, and once more when a lease has passed",
    )  # fmt: skip
    INBOX_LEFTOVERS = (
        "INBOX_LEFTOVERS", Kind.QUEUE,
        "messages lie in the inbox of a consumer that is gone, seen by no handler",
        "it died right after its blocking read, and no worker or reaper has run since",
        "bring them back: reliq reap, or reliq fsck --repair",
    )  # fmt: skip
    STALE_REGISTRATION = (
        "STALE_REGISTRATION", Kind.QUEUE,
        "a consumer is registered that holds nothing, and was last heard of more than a day ago",
        "no worker and no reaper has run since, which would have forgotten it",
        "forget it: reliq reap, or reliq fsck --repair",
    )  # fmt: skip
    DUPLICATE = (
        "DUPLICATE", Kind.QUEUE,
        "a message stands in two places at once, so it is handled twice",
        "a foreign producer pushed an envelope again, or entries were copied or restored by hand",
        "remove the copy that is less far: reliq fsck --repair",
    )  # fmt: skip
    UNREADABLE = (
        "UNREADABLE", Kind.QUEUE,
        "an entry that waits can be read by no handler",
        "a foreign producer pushed it, in another format than the queue's codec, or it was damaged",
        "make it a dead letter: reliq fsck --repair, or leave that to the worker that claims it",
    )  # fmt: skip
    ORPHAN_BODY = (
        "ORPHAN_BODY", Kind.QUEUE,
        "a large body lies beside the list, and no message has it",
        "somebody has deleted a list of the queue, or its message, by hand",
        "delete it: reliq fsck --repair; if it may be of use, copy it first: redis-cli GET",
    )  # fmt: skip
    ORPHAN_UNIQUE = (
        "ORPHAN_UNIQUE", Kind.QUEUE,
        "a key of unique messages is held by one that is nowhere, so that puts with it are skipped",
        "somebody has deleted a list of the queue, or its message, by hand; or Redis has lost writes",
        "let it go: reliq fsck --repair",
    )  # fmt: skip
    LOST_TURN = (
        "LOST_TURN", Kind.QUEUE,
        "messages wait for a turn that never comes: that of their ordering key, tenant or group",
        "somebody has deleted a list of the queue, or its message, by hand; or Redis has lost writes",
        "let the next ones go on: reliq fsck --repair",
    )  # fmt: skip
    LOST_PLACE = (
        "LOST_PLACE", Kind.QUEUE,
        "a tenant has less in hand than its limit allows, as one place is taken by a message that nobody has",
        "somebody has deleted a list of the queue, or a message, by hand; or Redis has lost writes",
        "let the place go: reliq fsck --repair",
    )  # fmt: skip
    FOREIGN_KEY = (
        "FOREIGN_KEY", Kind.QUEUE,
        "a key stands among those of the queue that is none of them",
        "another program uses the prefix, or the index of queues was deleted",
        "see whose it is; give that program another prefix",
    )  # fmt: skip
    LOST_QUEUE = (
        "LOST_QUEUE", Kind.QUEUE,
        "no command and no cron reaper finds this queue",
        "the index of the prefix was deleted, or only foreign producers have used the queue so far",
        "start a worker for it: whoever opens the queue writes it into the index",
    )  # fmt: skip
    UNREADABLE_INDEX = (
        "UNREADABLE_INDEX", Kind.QUEUE,
        "commands pass over these queues, as their entries in the index cannot be read",
        "another program has written into the index of the prefix",
        "remove the entry with HDEL; the next put or worker of that queue writes it anew",
    )  # fmt: skip
    SHARED_LIST = (
        "SHARED_LIST", Kind.QUEUE,
        "two queues take from the same list, so each gets a part of the messages",
        "two Queue objects have different names and the same key=",
        "give both the same name, or each a list of its own",
    )  # fmt: skip
    SPLIT_SLOTS = (
        "SPLIT_SLOTS", Kind.QUEUE,
        "this Cluster cannot serve the queue: no hash tag has the slot of its list",
        "an adopted list whose name has '}' in it, and no hash tag of its own",
        "rename the list, or use a Redis that is no Cluster",
    )  # fmt: skip
    NEWER_FORMAT = (
        "NEWER_FORMAT", Kind.QUEUE,
        "messages of a newer release wait; this release would make dead letters of them",
        "producers were upgraded before consumers",
        "upgrade the workers first; what has died of it can be put back afterwards",
    )  # fmt: skip
    OTHER_SETTINGS = (
        "OTHER_SETTINGS", Kind.QUEUE,
        "this code and the others use different lists, codecs, prefixes or servers for the queue",
        "programs open the queue with different arguments, or in different environments",
        "give every Queue(...) of that name the same url, prefix=, key= and codec=",
    )  # fmt: skip
    TIMEOUT_OVER_LEASE = (
        "TIMEOUT_OVER_LEASE", Kind.QUEUE,
        "one lost answer costs the lease, and what is in hand is handled twice",
        "timeout= is too long for so short a lease=: an answer is waited for until the lease has ended",
        "raise lease=, or lower timeout= below two thirds of it",
    )  # fmt: skip
    CONNECT_OVER_LEASE = (
        "CONNECT_OVER_LEASE", Kind.QUEUE,
        "one address that does not answer costs the lease, and what is in hand is handled twice",
        "connect_timeout is too long for the queue's lease",
        "lower connect_timeout (socket_connect_timeout in a URL), or raise lease=",
    )  # fmt: skip
    BODY_OVER_LIMIT = (
        "BODY_OVER_LIMIT", Kind.QUEUE,
        "bodies that max_body= allows are refused by Redis, which ends the connection",
        "proto-max-bulk-len or maxmemory of the server is below max_body=",
        "lower max_body=, or raise the server's limit",
    )  # fmt: skip

    # -- what is wrong with a server, or with the way to it ---------------------------------------------------

    OLD_SERVER = (
        "OLD_SERVER", Kind.SERVER,
        "what newer servers can do is refused: put(fsync=True) needs 7.2",
        "the server is older",
        "nothing is to be done, unless you want that; then upgrade",
    )  # fmt: skip
    READ_ONLY_REPLICA = (
        "READ_ONLY_REPLICA", Kind.SERVER,
        "nothing can be put, claimed or acked here",
        "the URL names a replica, or a failover has made one of it",
        "connect to the primary; redis+sentinel:// finds it by itself",
    )  # fmt: skip
    NOT_PERSISTED = (
        "NOT_PERSISTED", Kind.SERVER,
        "a restart of Redis loses messages that were accepted",
        "appendonly is off",
        "redis-cli CONFIG SET appendonly yes, and write it into redis.conf",
    )  # fmt: skip
    UNSYNCED_WRITES = (
        "UNSYNCED_WRITES", Kind.SERVER,
        "a crash of the Redis host loses what was accepted last",
        "appendfsync is not always: writes reach the disk later",
        "if that is too much: redis-cli CONFIG SET appendfsync always, or put(replicas=1)",
    )  # fmt: skip
    SAVE_FAILED = (
        "SAVE_FAILED", Kind.SERVER,
        "Redis cannot write to disk: it refuses puts, or a restart loses what was accepted",
        "the disk is full, read-only or broken, or the process may not write there",
        "see the log of Redis; make room on its disk",
    )  # fmt: skip
    NO_REPLICA = (
        "NO_REPLICA", Kind.SERVER,
        "if the machine of this Redis is lost, the queues are",
        "no replica is attached",
        "nothing is to be done if that is accepted; else attach a replica, and put(replicas=1)",
    )  # fmt: skip
    TOO_FEW_REPLICAS = (
        "TOO_FEW_REPLICAS", Kind.SERVER,
        "Redis refuses all writes (NOREPLICAS) until enough replicas are in step",
        "min-replicas-to-write is more than the replicas that are in step",
        "bring the replicas back, or lower min-replicas-to-write",
    )  # fmt: skip
    REPLICA_LAGS = (
        "REPLICA_LAGS", Kind.SERVER,
        "a failover now loses what the replica does not have yet",
        "a replica is cut off, suspended or too slow",
        "see its log, and INFO replication",
    )  # fmt: skip
    UNGUARDED_FAILOVER = (
        "UNGUARDED_FAILOVER", Kind.SERVER,
        "a primary that was cut off goes on taking puts, which a failover loses",
        "min-replicas-to-write is 0 although there are replicas",
        "redis-cli CONFIG SET min-replicas-to-write 1, or put(replicas=1) where it matters",
    )  # fmt: skip
    ROLLED_BACK = (
        "ROLLED_BACK", Kind.SERVER,
        "puts of the last moments before it may be missing, and acked messages be handled again",
        "a failover, a crash or a restored copy: this Redis does not have all that was confirmed before",
        "ask for what is missing: reliq explain ID; from now on put(replicas=1) where it matters",
    )  # fmt: skip
    EVICTION = (
        "EVICTION", Kind.SERVER,
        "Redis throws away whole queues to make room, when its memory is full",
        "maxmemory-policy is not noeviction",
        "redis-cli CONFIG SET maxmemory-policy noeviction, and write it into redis.conf",
    )  # fmt: skip
    MEMORY_LOW = (
        "MEMORY_LOW", Kind.SERVER,
        "soon Redis refuses puts (QUEUE_FULL); claims and acks go on",
        "more is put than is handled, or maxmemory is too small",
        "let consumers drain it, start more workers, or raise maxmemory",
    )  # fmt: skip
    LARGE_QUEUE = (
        "LARGE_QUEUE", Kind.SERVER,
        "most of Redis' memory is taken by one part of one queue",
        "messages are put, put off or given up faster than they go",
        "start more workers; look at dead letters and revive or remove them: reliq dead ls",
    )  # fmt: skip
    MEMORY_UNLIMITED = (
        "MEMORY_UNLIMITED", Kind.SERVER,
        "a queue that nobody drains grows until the machine kills Redis",
        "maxmemory is 0",
        "set maxmemory (with noeviction): puts are refused then, and nothing is lost",
    )  # fmt: skip
    FRAGMENTED_MEMORY = (
        "FRAGMENTED_MEMORY", Kind.SERVER,
        "Redis holds much more memory than its data needs",
        "many elements of different sizes came and went",
        "redis-cli MEMORY PURGE; CONFIG SET activedefrag yes where the server has it",
    )  # fmt: skip
    IDLE_TIMEOUT = (
        "IDLE_TIMEOUT", Kind.SERVER,
        "Redis ends the connections of idle workers between two of their round trips",
        "timeout is not 0, and shorter than an idle worker is silent",
        "redis-cli CONFIG SET timeout 0, or at least 60",
    )  # fmt: skip
    KEEPALIVE_OFF = (
        "KEEPALIVE_OFF", Kind.SERVER,
        "connections of hosts that are gone stay, and take messages that wait a lease for a reaper",
        "tcp-keepalive is 0",
        "redis-cli CONFIG SET tcp-keepalive 300, and write it into redis.conf",
    )  # fmt: skip
    MANY_CLIENTS = (
        "MANY_CLIENTS", Kind.SERVER,
        "soon Redis refuses new connections",
        "more processes or threads than expected, or connections that are never closed",
        "see CLIENT LIST; raise maxclients, and the limit of open files",
    )  # fmt: skip
    SLOW_SCRIPTS = (
        "SLOW_SCRIPTS", Kind.SERVER,
        "everybody waits while a script of reliq runs",
        "bodies are large, or the machine of Redis is overloaded",
        "put large data into a store and send its address; give Redis a core of its own",
    )  # fmt: skip
    SLOW_NETWORK = (
        "SLOW_NETWORK", Kind.SERVER,
        "leases cannot be renewed in time, and messages are handled twice",
        "the round trip to Redis is long, or Redis is overloaded",
        "raise lease=, or bring workers and Redis closer together",
    )  # fmt: skip
    CLOCK_SKEW = (
        "CLOCK_SKEW", Kind.SERVER,
        "put(at=) is off by this, and so are the ages that commands show; leases are not",
        "the clock of this host, or that of Redis, is wrong",
        "set both by NTP",
    )  # fmt: skip
    CLUSTER_BROKEN = (
        "CLUSTER_BROKEN", Kind.SERVER,
        "queues whose slots nobody serves stand still",
        "nodes of the Cluster are down, or slots belong to nobody",
        "redis-cli --cluster check HOST:PORT, and bring the nodes back",
    )  # fmt: skip
    MISSING_RIGHTS = (
        "MISSING_RIGHTS", Kind.SERVER,
        "what needs these commands fails (ACCESS_DENIED)",
        "the ACL user may not use them, or the server has renamed them",
        "grant them: reliq doctor --acl prints the whole line",
    )  # fmt: skip
    FORBIDDEN_KEYS = (
        "FORBIDDEN_KEYS", Kind.SERVER,
        "what needs these keys fails (ACCESS_DENIED)",
        "the ACL user may not read and write all keys of the queue",
        "grant them: reliq doctor --acl prints the whole line",
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
    QUEUE_DRAINING = (
        "QUEUE_DRAINING", Kind.ERROR,
        "the queue takes no more puts",
        "somebody has said `reliq drain`, to have it worked off before a change",
        "put when it is through; reliq status says who it was, and reliq resume ends it",
    )  # fmt: skip
    MOVED_ON = (
        "MOVED_ON", Kind.ERROR,
        "a message moved on whenever it was to be cancelled or given another time; nothing was changed",
        "it is put back, retried or reaped many times a second",
        "say the same again; if it goes on, see the handler that puts it back: reliq explain ID",
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
    POOL_EXHAUSTED = (
        "POOL_EXHAUSTED", Kind.ERROR,
        "all connections of the pool were in use for pool_wait seconds; nothing was sent",
        "more is done at once than pool_size has room for, or Redis is slow or does not answer",
        "raise pool_size, do less at once, or see with reliq doctor whether Redis is slow; repeating is safe",
    )  # fmt: skip
    ACCESS_DENIED = (
        "ACCESS_DENIED", Kind.ERROR,
        "a password is missing or wrong, or the ACL user may not do this",
        "the URL has no password, or the user lacks keys or commands",
        "put user and password into the URL; or grant the user what reliq doctor --acl prints",
    )  # fmt: skip
    WRONG_KEY_TYPE = (
        "WRONG_KEY_TYPE", Kind.ERROR,
        "a key of the queue holds another type of value; nothing was executed",
        "another program uses a key of this name",
        "choose another queue name or prefix, or remove that key",
    )  # fmt: skip
    QUEUE_HELD = (
        "QUEUE_HELD", Kind.ERROR,
        "a queue has either one exclusive holder, or any number of consumers; nothing was executed",
        "somebody holds it for himself alone, or others live there or hold messages of it",
        "end the one or the others, or wait for them: exclusive(wait=)",
    )  # fmt: skip
    NEWER_SCHEMA = (
        "NEWER_SCHEMA", Kind.ERROR,
        "a later release works on this queue, and keeps things in its keys that this one does not know",
        "some programs were upgraded before others",
        "upgrade the programs that run this release, one release at a time",
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
    RESULT = (
        "RESULT", Kind.ERROR,
        "there is no result for whoever has waited for one",
        "the base of RESULT_PENDING, RESULT_MISSING and MESSAGE_FAILED",
        "see what the message says",
    )  # fmt: skip
    RESULT_PENDING = (
        "RESULT_PENDING", Kind.ERROR,
        "the message has not ended within the timeout, so there is no result yet",
        "nobody has handled it so far, or its handler takes longer; the message says where it is",
        "wait again with a longer timeout, or see what it waits for: reliq explain ID",
    )  # fmt: skip
    RESULT_MISSING = (
        "RESULT_MISSING", Kind.ERROR,
        "there is no result, and there will be none",
        "the put did not ask, it was kept for long enough, or it was too large or of a kind that cannot be kept",
        "put with result=SECONDS and ask within that; let handlers return plain data, or the address of it",
    )  # fmt: skip
    MESSAGE_FAILED = (
        "MESSAGE_FAILED", Kind.ERROR,
        "the message whose result was waited for has ended without being done",
        "dead-lettered, cancelled, replaced or purged: .cause says which, .traceback where its handler failed",
        "correct that and revive it: reliq dead revive; what becomes of it then takes the place of this",
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
    START_FAILED = (
        "START_FAILED", Kind.ERROR,
        "a worker has not started, and has claimed nothing",
        "its lifespan raised before it yielded, or did not yield what a handler is annotated to need",
        "see the traceback in the worker's log, correct that, and start the worker again",
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
        "the base of Bury, Release, RetryAfter and BatchFailed",
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
    BATCH_FAILED = (
        "BATCH_FAILED", Kind.VERDICT,
        "a handler of batches said which of its messages failed; the others are done",
        "raise BatchFailed({index or id: exception})",
        "see what they failed with: reliq explain ID",
    )  # fmt: skip


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
