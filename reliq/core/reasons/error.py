"""Why a call failed: the codes of ``reliq.errors``.

Of each code what it means, where it comes from, and what to do now.
"""

from __future__ import annotations

from typing import Final

TEXTS: Final = {
    "RELIQ": (
        "something went wrong in reliq",
        "the base of all its errors",
        "see what the message says",
    ),
    "CONFIG": (
        "a setting, a name or an argument is wrong; nothing was sent",
        "the message names it",
        "correct the call, the option or the environment variable that it names",
    ),
    "BODY": (
        "the codec cannot encode this body; nothing was sent",
        "it holds objects that msgpack or JSON have no form for",
        "send plain data, or give the queue a codec of your own",
    ),
    "BODY_TOO_LARGE": (
        "the encoded body is over max_body; nothing was sent",
        "large data belongs beside the queue",
        "put the data into a store and send its address, or raise max_body",
    ),
    "NOT_AN_ENVELOPE": (
        "these bytes are no message of reliq",
        "a raw body of a foreign producer, or bytes from elsewhere",
        "nothing is to be done if another program put them: the claim makes a message of them",
    ),
    "REFUSED": (
        "Redis, or the way to it, said no before anything was executed",
        "the message says what Redis answered",
        "do what it says; repeating is safe",
    ),
    "QUEUE_DRAINING": (
        "the queue takes no more puts",
        "somebody has said `reliq drain`, to have it worked off before a change",
        "put when it is through; reliq status says who it was, and reliq resume ends it",
    ),
    "MOVED_ON": (
        "a message moved on whenever it was to be cancelled or given another time; nothing was changed",
        "it is put back, retried or reaped many times a second",
        "say the same again; if it goes on, see the handler that puts it back: reliq explain ID",
    ),
    "QUEUE_FULL": (
        "Redis is at maxmemory and takes no more; claims and acks still work",
        "more is put than is handled, or maxmemory is too small",
        "let consumers drain it, raise maxmemory, or wait and put again",
    ),
    "UNAVAILABLE": (
        "Redis is not there, or cannot serve at the moment; nothing was executed",
        "it is down, unreachable, loading, failing over, or the URL is wrong",
        "check that it runs and that RELIQ_URL or url= names it; repeating is safe",
    ),
    "POOL_EXHAUSTED": (
        "all connections of the pool were in use for pool_wait seconds; nothing was sent",
        "more is done at once than pool_size has room for, or Redis is slow or does not answer",
        "raise pool_size, do less at once, or see with reliq doctor whether Redis is slow; repeating is safe",
    ),
    "ACCESS_DENIED": (
        "a password is missing or wrong, or the ACL user may not do this",
        "the URL has no password, or the user lacks keys or commands",
        "put user and password into the URL; or grant the user what reliq doctor --acl prints",
    ),
    "WRONG_KEY_TYPE": (
        "a key of the queue holds another type of value; nothing was executed",
        "another program uses a key of this name",
        "choose another queue name or prefix, or remove that key",
    ),
    "QUEUE_HELD": (
        "a queue has either one exclusive holder, or any number of consumers; nothing was executed",
        "somebody holds it for himself alone, or others live there or hold messages of it",
        "end the one or the others, or wait for them: exclusive(wait=)",
    ),
    "NEWER_SCHEMA": (
        "a later release works on this queue, and keeps things in its keys that this one does not know",
        "some programs were upgraded before others",
        "upgrade the programs that run this release, one release at a time",
    ),
    "UNSUPPORTED_SERVER": (
        "the server is too old for what was asked, or is not Redis",
        "reliq needs Redis 6.2 (BLMOVE), and put(fsync=True) 7.2 (WAITAOF)",
        "upgrade the server, or point RELIQ_URL at a newer one",
    ),
    "OUTCOME_UNKNOWN": (
        "it was sent and no answer came: it may have been executed, or not",
        "the connection broke, Redis died or was too slow, or fewer replicas confirmed than were asked for",
        "give the error to queue.repeat(): it sends the same again, and the server keeps one copy",
    ),
    "PUT_MANY": (
        "a put_many went through in part",
        "Redis refused or fell silent between two of its round trips",
        "see .accepted, .refused and .unknown; queue.repeat(error) settles what is unknown",
    ),
    "RESULT": (
        "there is no result for whoever has waited for one",
        "the base of RESULT_PENDING, RESULT_MISSING and MESSAGE_FAILED",
        "see what the message says",
    ),
    "RESULT_PENDING": (
        "the message has not ended within the timeout, so there is no result yet",
        "nobody has handled it so far, or its handler takes longer; the message says where it is",
        "wait again with a longer timeout, or see what it waits for: reliq explain ID",
    ),
    "RESULT_MISSING": (
        "there is no result, and there will be none",
        "the put did not ask, it was kept for long enough, or it was too large or of a kind that cannot be kept",
        "put with result=SECONDS and ask within that; let handlers return plain data, or the address of it",
    ),
    "MESSAGE_FAILED": (
        "the message whose result was waited for has ended without being done",
        "dead-lettered, cancelled, replaced or purged: .cause says which, .traceback where its handler failed",
        "correct that and revive it: reliq dead revive; what becomes of it then takes the place of this",
    ),
    "LEASE_LOST": (
        "this settle came too late: the message is no longer this consumer's",
        "the process slept, hung or was cut off for longer than the lease, and another one got the message",
        "make the effect safe to repeat (the fence helps); raise lease= if handlers block the process for so long",
    ),
    "CONSUMER_CLOSED": (
        "the consumer is closed, or belongs to the parent of this process",
        "it was used after its with block, or inherited by a fork",
        "open a consumer of its own in each process",
    ),
    "START_FAILED": (
        "a worker has not started, and has claimed nothing",
        "its lifespan raised before it yielded, or did not yield what a handler is annotated to need",
        "see the traceback in the worker's log, correct that, and start the worker again",
    ),
    "EMBEDDED_UNAVAILABLE": (
        "no URL was given, and no private Redis can be started here",
        "there is no redis-server, or RELIQ_EMBEDDED=0 forbids it",
        "set RELIQ_URL, install redis-server, or name one with RELIQ_REDIS_SERVER",
    ),
}
