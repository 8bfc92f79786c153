"""Every default of reliq, each with its unit and its reason. docs/settings.md prints this table."""

from __future__ import annotations

from typing import Final, NamedTuple


class Default(NamedTuple):
    """One row of the table."""

    name: str
    value: float | int
    unit: str
    reason: str


LEASE: Final = 15.0
BLOCK: Final = 5.0
TIMEOUT: Final = 5.0
CONNECT_TIMEOUT: Final = 2.0
RENEW_SHARE: Final = 3
#: An outage does not end the lease of anybody who lives: who notices a silence of this share of the lease reaps
#: nothing for one lease; a shorter one, after a renewal that is a third old (RENEW_SHARE), and then the longest
#: pause between two tries (BACKOFF_SHARE), leave some of it: 1/3 + 1/2 + 1/8 < 1.
CUT_OFF_SHARE: Final = 2
BACKOFF_SHARE: Final = 8
CONCURRENCY: Final = 8
PREFETCH_WINDOW: Final = 0.02
PREFETCH_MOST: Final = 1000
ATTEMPTS: Final = 5
WAIT_FIRST: Final = 1.0
WAIT_MOST: Final = 600.0
RELEASE_DELAY: Final = 1.0
UNROUTED_FIRST: Final = 1.0
UNROUTED_MOST: Final = 600.0
MAX_LOSSES: Final = 3
GRACE: Final = 25.0
DEDUPE_WINDOW: Final = 3600.0
FORGET_AFTER: Final = 86400.0
SUSPECT_PATIENCE: Final = 1.0
EXPECTED: Final = 60.0
LOG_BURST: Final = 100
LOG_WINDOW: Final = 10.0
MAX_BODY: Final = 64 * 1024 * 1024
CLAIM_CHECK: Final = 64 * 1024
COMPRESS_FROM: Final = 1024
RESULT: Final = 3600.0
RESULT_BYTES: Final = 256 * 1024
HEADERS: Final = 4096
IDEMPOTENT: Final = 86400.0
#: A report of progress is a number or a line; each trip may take many along.
PROGRESS_BYTES: Final = 4096
SCRIPT_ELEMENTS: Final = 1000
SCRIPT_BYTES: Final = 256 * 1024
#: A paused queue is looked at this often, seconds: resuming is seen by all within that.
PAUSE_LOOK: Final = 1.0
#: Most that one call of a reap moves: it looks into each.
REAP_ELEMENTS: Final = 125
#: A tick that comes no later is no missed one.
TICK_GRACE: Final = 60.0
LEDGER_LENGTH: Final = 10_000
LEDGER_AGE: Final = 1_209_600.0
TRACEBACK: Final = 4000
GIL_CAP: Final = 600.0

TABLE: Final = (
    Default("lease", LEASE, "s", "how long a silent host keeps its messages; three missed renewals of 5 s"),
    Default("block", BLOCK, "s", "an idle consumer asks again this often; must stay below the socket timeout"),
    Default("timeout", TIMEOUT, "s", "to wait for an answer of Redis, and for a put to get through in all"),
    Default("connect_timeout", CONNECT_TIMEOUT, "s", "a server on the same network answers in milliseconds"),
    Default("concurrency", CONCURRENCY, "", "handlers that run at once in one process; most handlers wait"),
    Default("prefetch window", PREFETCH_WINDOW, "s", "claim ahead only what handlers finish in this time"),
    Default("prefetch most", PREFETCH_MOST, "", "and never more than one script may move"),
    Default("attempts", ATTEMPTS, "", "then the message is dead-lettered; a lost delivery is no attempt"),
    Default("wait first", WAIT_FIRST, "s", "before the second attempt; doubles, with jitter"),
    Default("wait most", WAIT_MOST, "s", "the longest wait between two attempts"),
    Default("release delay", RELEASE_DELAY, "s", "a handler that always releases must be no hot loop"),
    Default(
        "unrouted first", UNROUTED_FIRST, "s", "a message of a type that nobody handles is away so long; doubles"
    ),
    Default("unrouted most", UNROUTED_MOST, "s", "the longest time away; a worker that handles it has it by then"),
    Default("max_losses", MAX_LOSSES, "", "a message that three workers died with is poison"),
    Default("grace", GRACE, "s", "to finish on SIGTERM; fits the 30 s of Kubernetes"),
    Default(
        "dedupe window", DEDUPE_WINDOW, "s", "so long a put of unknown outcome can be repeated without a copy"
    ),
    Default("forget after", FORGET_AFTER, "s", "an empty registration of a dead consumer is visited so long"),
    Default("suspect patience", SUSPECT_PATIENCE, "s", "to get empty hands for a message that killed a worker"),
    Default("expected", EXPECTED, "s", "one that runs longer is told of, once, with its stack; most take seconds"),
    Default("log burst", LOG_BURST, "", "records of one kind in 10 s; more are counted, not to fill a disk"),
    Default("max_body", MAX_BODY, "bytes", "larger ones belong in an object store; Redis itself takes 512 MB"),
    Default(
        "claim_check", CLAIM_CHECK, "bytes", "larger bodies lie beside the list, so that no ack sends them back"
    ),
    Default("compress from", COMPRESS_FROM, "bytes", "with compress=; shorter ones gain little, and cost time"),
    Default(
        "result", RESULT, "s", "so long put(result=True) has one kept, and progress is, from the last report on"
    ),
    Default("idempotent", IDEMPOTENT, "s", "so long a key that is done is known; longer than most retries go on"),
    Default("headers", HEADERS, "bytes", "of a put, in all: every settle carries them back and forth"),
    Default("result bytes", RESULT_BYTES, "bytes", "larger ones belong in a store; one trip may carry as much"),
    Default(
        "script elements", SCRIPT_ELEMENTS, "", "most that one script call moves, so that Redis is never held"
    ),
    Default(
        "script bytes",
        SCRIPT_BYTES,
        "bytes",
        "most that one script call moves; one larger element goes alone",
    ),
    Default(
        "tick grace", TICK_GRACE, "s", "a tick so late is no missed one: a crash or a failover is over by then"
    ),
    Default("ledger length", LEDGER_LENGTH, "", "abnormal events kept per queue"),
    Default("ledger age", LEDGER_AGE, "s", "older ones are let go; two weeks, so that a holiday is covered"),
    Default("traceback", TRACEBACK, "bytes", "kept of the last failure of a dead letter"),
    Default("GIL cap", GIL_CAP, "s", "so long the supervisor renews for a child that cannot do it itself"),
)
