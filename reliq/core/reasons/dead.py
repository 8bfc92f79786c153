"""Why a message was given up.

Of each code what it means, where it comes from, and what to do now.
"""

from __future__ import annotations

from typing import Final

TEXTS: Final = {
    "DEAD_ATTEMPTS": (
        "its handler failed as often as the policy allows",
        "an exception in the handler at every attempt; the last one is kept with its traceback",
        "correct what the traceback shows, then: reliq dead revive ID",
    ),
    "DEAD_GIVEN_UP": (
        "its handler raised an error that its retry policy does not retry",
        "Retry(give_up_on=) names this error, or Retry(retry_on=) does not",
        "correct what the traceback shows, then: reliq dead revive ID",
    ),
    "DEAD_TOO_OLD": (
        "its next attempt would have begun later after its put than its retry policy allows",
        "it failed, and with the wait that was due it would be older than Retry(max_age=)",
        "if it is still worth it: reliq dead revive ID, or give it a longer max_age",
    ),
    "DEAD_EXPIRED": (
        "nobody had begun with it when its time was over",
        "consumers came to it later than put(expires=) allows: too few of them, or an outage",
        "put its body again if it is still worth it (a revived one is over its time still); else reliq dead rm",
    ),
    "DEAD_NO_HANDLER": (
        "no handler of the worker that claimed it takes its type",
        "Queue(unrouted='bury'), and no handler has this type= and none is without one",
        "start a worker whose module has @q.ack(type=...) for it, then: reliq dead revive ID",
    ),
    "DEAD_PURGED": (
        "it was removed with all that waited, and came back from the export of that purge",
        "somebody has said `reliq purge --export`, and imported the file",
        "revive it if it is to be handled: reliq dead revive; else reliq dead rm",
    ),
    "DEAD_POISON": (
        "its workers died while they had it in hand, as often as max_losses allows",
        "it makes the process crash, run out of memory, or hang past its timeout",
        "handle its body under a debugger (reliq dead show ID); once the handler survives: reliq dead revive ID",
    ),
    "DEAD_BURIED": (
        "its handler said that it cannot be done",
        "raise Bury(...) or lease.bury(...) in the handler",
        "see its reason; if that no longer holds: reliq dead revive ID",
    ),
    "DEAD_UNDECODABLE": (
        "its body cannot be read",
        "the producer wrote another format than the queue's codec, or the bytes were damaged",
        "give the queue the producer's codec=, then: reliq dead revive ID; or correct the producer",
    ),
    "DEAD_UNSUPPORTED_VERSION": (
        "it is in a format that this release does not know",
        "a newer release put it; consumers have to be upgraded before producers",
        "upgrade the workers, then: reliq dead revive ID",
    ),
    "DEAD_BAD_LENGTH": (
        "its envelope does not have the length that it says",
        "a foreign producer writes envelopes that are wrong",
        "correct that producer: the format is in reliq/core/wire.md",
    ),
    "DEAD_BAD_META": (
        "the meta of its envelope cannot be read",
        "a foreign producer writes envelopes that are wrong",
        "correct that producer: the format is in reliq/core/wire.md",
    ),
    "DEAD_BAD_NOTE": (
        "it is among the dead letters, and the note about it cannot be read",
        "another program wrote into the list of dead letters",
        "see what it is: reliq dead ls",
    ),
    "DEAD_TOO_LARGE": (
        "it is a raw body of more than 256 MiB, which could not be acked",
        "a foreign producer pushed it",
        "put the data into a store and send its address",
    ),
    "DEAD_BODY_MISSING": (
        "its body, which lies beside the list, is gone",
        "that key was deleted by hand or evicted, or it is the second copy of a message that was acked",
        "put it again if its work is not done; see that maxmemory-policy is noeviction: reliq doctor",
    ),
    "DEAD_OTHER": (
        "its handler gave it up with a code of its own",
        "raise DecodeError(CODE, ...) in the handler or in a codec",
        "see what that code means in your own program",
    ),
}
