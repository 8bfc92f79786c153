"""Where a message is, and why it is not further.

Of each code what it means, where it comes from, and what to do now.
"""

from __future__ import annotations

from typing import Final

TEXTS: Final = {
    "WAITING_TURN": (
        "it is ready, and so are others that were put before it",
        "consumers take the oldest first, and their hands are full with those",
        "wait; to be faster start more workers, or give them a larger --concurrency",
    ),
    "PAUSED": (
        "it is ready, and nobody may claim it: the queue is paused",
        "somebody has said so, to hold a deployment or a broken service off",
        "let it go on: reliq resume",
    ),
    "LIMITED": (
        "it is ready, and as many are in hand as the queue's limit allows",
        "the limit is lower than what comes in; or a worker that died still holds some, until its lease ends",
        "wait; or raise the limit: reliq limit --concurrency, of each tenant --tenant-concurrency",
    ),
    "SUSPECT_WAITS": (
        "it is ready, and waits for a worker with empty hands",
        "a worker died with it, so it is handed out alone: if it kills again, no neighbour is punished",
        "wait; if it is urgent, start one more worker",
    ),
    "NO_CONSUMERS": (
        "there is work, and nobody takes it: no consumer of this queue is alive",
        "no worker was started for this queue, under this prefix, or all have stopped or died",
        "start one: reliq worker MODULE:HANDLER",
    ),
    "CONSUMERS_STALLED": (
        "consumers are alive, and yet the queue has not moved for a while",
        "their handlers take long or hang, or their hands are full and their claim loop does not go on",
        "look at what they hold: reliq status; give handlers a timeout=, so that hung ones are replaced",
    ),
    "DUE_LATER": (
        "it was put for later, and its time has not come",
        "put(delay=), put(at=) or a reschedule; the server's clock counts",
        "wait until it is due",
    ),
    "AWAITS_TURN": (
        "it waits for an earlier message with the same ordering key",
        "put(ordering_key=): one of them is handled at a time, in order, and an earlier one is not done",
        "see why that one is not done: reliq explain with its id",
    ),
    "GATHERING": (
        "it waits for others of its group, to be handled together with them",
        "put(group=): some of a group come together, when none has come for a while, or enough have",
        "wait until it is time; to have it sooner put with a shorter grace, or max_delay",
    ),
    "RETRY_BACKOFF": (
        "its handler failed, and it comes back after a pause",
        "the retry policy waits longer after every failed attempt",
        "correct what the last error says before the next attempt; its last one makes it a dead letter",
    ),
    "RELEASE_BACKOFF": (
        "its handler put it back, and it comes back after a pause",
        "the handler raised Release: it was not the time, or not the worker, for this message",
        "wait, or see why the handler releases it",
    ),
    "NO_HANDLER": (
        "no worker that has claimed it handles its type, so it comes back after a pause, each time a longer one",
        "no handler has this type= and none is without one; its worker is not started, or the type is misspelt",
        "start a worker whose module has @q.ack(type=...) for it; if nobody is to handle it: reliq cancel ID",
    ),
    "DUE": (
        "its time has come; the next consumer that asks makes it ready",
        "delayed messages are moved to ready by the round trips of consumers, a bounded number each",
        "wait a moment; if it stays, see whether consumers are alive: reliq status",
    ),
    "ARRIVING": (
        "it is on its way into the hands of a consumer",
        "a blocking read has brought it, and the consumer's next round trip claims it",
        "wait a moment; if it stays, the consumer is gone, and a reaper brings it back when its lease ends",
    ),
    "LEASED": (
        "a consumer that is alive has claimed it: its handler runs, or is about to",
        "this is how messages are handled",
        "wait; if it takes too long, look at that process (py-spy dump --pid PID shows where it is)",
    ),
    "HANDLER_SLOW": (
        "its handler has it in hand for longer than it is expected to take",
        "the handler waits for something, or has much to do; its stack shows where it is",
        "see the stack; to give it to another worker: reliq workers stop NAME; handlers with a timeout= end by "
        "themselves",
    ),
    "LEASE_EXPIRED": (
        "the consumer that has claimed it has let its lease end; a reaper brings it back",
        "its process died with its host, is stopped, sleeps, or cannot reach Redis",
        "every worker reaps within a second; if none runs: reliq reap",
    ),
    "CONSUMER_DIED": (
        "the consumer that has claimed it was seen to die; a reaper brings it back",
        "its supervisor saw the process end, and something was left in its hands",
        "every worker reaps within a minute; at once: reliq reap",
    ),
    "UNREGISTERED": (
        "it is in the list of a consumer that nobody registered",
        "the registration was deleted, or a read of a dead consumer was executed late",
        "workers find such lists within some minutes and bring them back; at once: reliq reap",
    ),
    "WORKER_LOST": (
        "it was handed out again, as a worker was lost with it in hand",
        "its process died, or was silent for longer than its lease; it may have done the work, or a part of it",
        "make the effect safe to repeat: write lease.id or lease.fence with it",
    ),
    "IN_BATCH": (
        "it is in the batch that somebody has in hand who holds the queue for himself alone",
        "the exclusive mode leaves messages in their place until their batch is done",
        "wait; if it takes long, look at that program",
    ),
    "MOVING": (
        "it exists, and moved on whenever it was looked for",
        "it is put back, retried or reaped many times a second",
        "ask again; if it goes on, see the handler that puts it back",
    ),
    "DONE": (
        "it was put, and is nowhere any more: it was handled and acked",
        "a message is gone only when its ack was accepted, or a person removed it",
        "nothing is to be done",
    ),
    "CANCELLING": (
        "it was cancelled while a consumer had it in hand: it is not handed out again",
        "somebody called cancel with its id; its handler is told, and ends when it heeds that",
        "wait; a handler that takes long has to look at lease.cancelled, or be a coroutine",
    ),
    "CANCELLED": (
        "it was cancelled, and no handler gets it (again)",
        "somebody called cancel with its id, or said reliq cancel ID",
        "nothing is to be done; if it is missed, put it again",
    ),
    "REPLACED": (
        "another message was put in its place before a handler began with it",
        "both are unique by the same key, and the put of the other one said on_conflict='replace'",
        "nothing: the other one is handled",
    ),
    "REMOVED": (
        "it was a dead letter, and is nowhere any more",
        "it was removed, or revived and then handled",
        "nothing is to be done; if it is missed, put it again",
    ),
    "VANISHED": (
        "it was put, no worker was ever given it, and it is nowhere any more",
        "somebody deleted keys or entries by hand (DEL, LREM, FLUSHDB), or Redis evicted or forgot them",
        "put it again; see whether Redis throws keys away: reliq doctor",
    ),
    "DONE_OR_FORGOTTEN": (
        "it is nowhere: it was handled and acked, or Redis has forgotten it",
        "soon after its put Redis failed over or was restarted, and what it confirmed last may be gone",
        "put it again with its id=, if its work is not done; put(replicas=1) and appendfsync always prevent it",
    ),
    "DONE_OR_NEVER_PUT": (
        "it is nowhere in the queue: it was handled and acked, or it never came here",
        "an ack leaves no trace, so that the usual way costs nothing",
        "compare the id, --url and --prefix with those of its put; a Receipt is the id of an accepted put",
    ),
    "UNSEARCHED": (
        "it is not where its id says; the rest of the queue was not read",
        "a quick look was asked for; messages that went back, or of clocks that differ, stand elsewhere",
        "search all of it: reliq explain without --quick, explain() without deep=False",
    ),
    "UNKNOWN_QUEUE": (
        "there is no queue of this name",
        "nothing was ever put into it under this prefix, and no worker was started for it",
        "correct the name, --prefix or --url; reliq status lists the queues",
    ),
}
