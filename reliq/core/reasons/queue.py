"""What is wrong with a queue.

Of each code what it means, where it comes from, and what to do now.
"""

from __future__ import annotations

from typing import Final

TEXTS: Final = {
    "DEAD_LETTERS": (
        "there are messages that were given up",
        "handlers failed too often, workers died, or bodies could not be read",
        "see why: reliq dead ls",
    ),
    "HELD_BY_DEAD": (
        "consumers that are gone hold messages",
        "they died without a goodbye, and no worker or reaper has run since",
        "bring them back: reliq reap",
    ),
    "OTHER_LIST": (
        "messages lie in the queue's usual list, and the queue has adopted another one",
        "a producer names the queue without the key= that its consumers name",
        "name key= there too, and move what is there as reliq status says",
    ),
    "DEAD_GROWING": (
        "messages were given up within the last hour",
        "handlers fail, workers die, or bodies cannot be read, and it goes on",
        "see why: reliq dead ls",
    ),
    "OLD_BACKLOG": (
        "the message that is claimed next was put long ago",
        "more is put than is handled, handlers hang, or it was put with a delay",
        "start more workers, or see what the handlers wait for; allow more with --max-age",
    ),
    "DEEP_BACKLOG": (
        "more messages are to be done than is allowed",
        "more is put than is handled, or handlers hang",
        "start more workers, or see what the handlers wait for; allow more with --max-depth",
    ),
    "BACKLOG_GROWS": (
        "more is put than is handled",
        "too few handlers run at once, or each takes long",
        "see where handlers are: reliq workers --stacks; start more workers, or raise --concurrency",
    ),
    "TOO_FEW_WORKERS": (
        "fewer consumers are at work than are needed",
        "workers were not started, have stopped, or do not come through to Redis",
        "start more: reliq worker MODULE:HANDLER; reliq status shows who is there",
    ),
    "CLAIM_LOOP_STALLED": (
        "a worker makes no round trips to Redis: it claims and settles nothing",
        "a handler holds the interpreter lock or blocks the event loop, or Redis does not answer",
        "see where that process is (py-spy dump --pid PID); give handlers a timeout=, or restart it",
    ),
    "HANDLER_STUCK": (
        "a handler is past its timeout and does not come back",
        "it waits for something for ever; a thread cannot be killed",
        "restart the worker; under reliq worker such a process is replaced by itself",
    ),
    "WORKERS_DIE": (
        "worker processes die with messages in hand, and are replaced",
        "a handler ends or crashes its process, passes its timeout, or takes more memory than there is",
        "see what they had in hand: reliq tail --once --event reap; the worker's log says how they ended",
    ),
    "OVERDUE": (
        "scheduled messages are due, and nobody has made them ready",
        "no consumer is alive, or none of them makes round trips",
        "start a worker; if some run, restart those whose leases are not renewed: reliq status",
    ),
    "TICKS_LATE": (
        "ticks of schedules are due, and nobody fires them",
        "no worker or scheduler is alive or can read it (see their logs); Redis is full; the queue is drained",
        "start a worker, or: reliq schedule run; where they run, cron expressions need reliq[cron]",
    ),
    "LATE_RENEWAL": (
        "a consumer renews its lease late; if it ends, its messages are handled twice",
        "its process is stopped, starved of CPU or cut off, or a handler holds the interpreter lock",
        "look at that process and its host; raise lease= if such pauses are normal there",
    ),
    "STRAY_LISTS": (
        "messages lie in lists of consumers that nobody registered",
        "the registration was deleted, or a read of a dead consumer was executed late",
        "bring them back: reliq reap, and once more when a lease has passed",
    ),
    "INBOX_LEFTOVERS": (
        "messages lie in the inbox of a consumer that is gone, seen by no handler",
        "it died right after its blocking read, and no worker or reaper has run since",
        "bring them back: reliq reap, or reliq fsck --repair",
    ),
    "STALE_REGISTRATION": (
        "a consumer is registered that holds nothing, and was last heard of more than a day ago",
        "no worker and no reaper has run since, which would have forgotten it",
        "forget it: reliq reap, or reliq fsck --repair",
    ),
    "DUPLICATE": (
        "a message stands in two places at once, so it is handled twice",
        "a foreign producer pushed an envelope again, or entries were copied or restored by hand",
        "remove the copy that is less far: reliq fsck --repair",
    ),
    "UNREADABLE": (
        "an entry that waits can be read by no handler",
        "a foreign producer pushed it, in another format than the queue's codec, or it was damaged",
        "make it a dead letter: reliq fsck --repair, or leave that to the worker that claims it",
    ),
    "ORPHAN_BODY": (
        "a large body lies beside the list, and no message has it",
        "somebody has deleted a list of the queue, or its message, by hand",
        "delete it: reliq fsck --repair; if it may be of use, copy it first: redis-cli GET",
    ),
    "ORPHAN_UNIQUE": (
        "a key of unique messages is held by one that is nowhere, so that puts with it are skipped",
        "somebody has deleted a list of the queue, or its message, by hand; or Redis has lost writes",
        "let it go: reliq fsck --repair",
    ),
    "LOST_TURN": (
        "messages wait for a turn that never comes: that of their ordering key, tenant or group",
        "somebody has deleted a list of the queue, or its message, by hand; or Redis has lost writes",
        "let the next ones go on: reliq fsck --repair",
    ),
    "LOST_PLACE": (
        "a tenant has less in hand than its limit allows, as one place is taken by a message that nobody has",
        "somebody has deleted a list of the queue, or a message, by hand; or Redis has lost writes",
        "let the place go: reliq fsck --repair",
    ),
    "FOREIGN_KEY": (
        "a key stands among those of the queue that is none of them",
        "another program uses the prefix, or the index of queues was deleted",
        "see whose it is; give that program another prefix",
    ),
    "LOST_QUEUE": (
        "no command and no cron reaper finds this queue",
        "the index of the prefix was deleted, or only foreign producers have used the queue so far",
        "start a worker for it: whoever opens the queue writes it into the index",
    ),
    "UNREADABLE_INDEX": (
        "commands pass over these queues, as their entries in the index cannot be read",
        "another program has written into the index of the prefix",
        "remove the entry with HDEL; the next put or worker of that queue writes it anew",
    ),
    "SHARED_LIST": (
        "two queues take from the same list, so each gets a part of the messages",
        "two Queue objects have different names and the same key=",
        "give both the same name, or each a list of its own",
    ),
    "SPLIT_SLOTS": (
        "this Cluster cannot serve the queue: no hash tag has the slot of its list",
        "an adopted list whose name has '}' in it, and no hash tag of its own",
        "rename the list, or use a Redis that is no Cluster",
    ),
    "NEWER_FORMAT": (
        "messages of a newer release wait; this release would make dead letters of them",
        "producers were upgraded before consumers",
        "upgrade the workers first; what has died of it can be put back afterwards",
    ),
    "OTHER_SETTINGS": (
        "this code and the others use different lists, codecs, prefixes or servers for the queue",
        "programs open the queue with different arguments, or in different environments",
        "give every Queue(...) of that name the same url, prefix=, key= and codec=",
    ),
    "TIMEOUT_OVER_LEASE": (
        "one lost answer costs the lease, and what is in hand is handled twice",
        "timeout= is too long for so short a lease=: an answer is waited for until the lease has ended",
        "raise lease=, or lower timeout= below two thirds of it",
    ),
    "CONNECT_OVER_LEASE": (
        "one address that does not answer costs the lease, and what is in hand is handled twice",
        "connect_timeout is too long for the queue's lease",
        "lower connect_timeout (socket_connect_timeout in a URL), or raise lease=",
    ),
    "BODY_OVER_LIMIT": (
        "bodies that max_body= allows are refused by Redis, which ends the connection",
        "proto-max-bulk-len or maxmemory of the server is below max_body=",
        "lower max_body=, or raise the server's limit",
    ),
}
