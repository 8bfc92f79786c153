"""Every error reply is told apart: certainly not executed, or perhaps executed.

The texts were read from Redis 6.2.14 and 7.0.15 (tests/lua/test_errors.py asks the servers found here
again); 6.2 wraps an error inside of a script into a text of its own, 7.0 adds the script to it.
"""

from __future__ import annotations

import pytest

from reliq.core import outcome
from reliq.errors import (
    AccessDenied,
    OutcomeUnknown,
    QueueFull,
    Refused,
    ReliqError,
    Unavailable,
    UnsupportedServer,
    WrongKeyType,
)

OOM = "OOM command not allowed when used memory > 'maxmemory'."
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
READONLY = "READONLY You can't write against a read only replica."
NOREPLICAS = "NOREPLICAS Not enough good replicas to write."
MISCONF = (
    "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk. "
    "Commands that may modify the data set are disabled, because this instance is configured to report errors "
    "during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs "
    "for details about the RDB error."
)
IN_62 = "ERR Error running script (call to f_a94ea23bc16bbab0a3643fd91cb7769443713c02): @user_script:1: "
IN_70 = " script: a94ea23bc16bbab0a3643fd91cb7769443713c02, on @user_script:1."

REFUSED: list[tuple[str, type[Refused]]] = [
    (OOM, QueueFull),
    (IN_62 + "@user_script: 1: -" + OOM, QueueFull),
    (OOM + IN_70, QueueFull),
    (WRONGTYPE, WrongKeyType),
    (IN_62 + WRONGTYPE, WrongKeyType),
    (WRONGTYPE + IN_70, WrongKeyType),
    (READONLY, Unavailable),
    (IN_62 + "@user_script: 1: -" + READONLY, Unavailable),
    (READONLY + IN_70, Unavailable),
    (NOREPLICAS, Unavailable),
    (IN_62 + "@user_script: 1: -" + NOREPLICAS, Unavailable),
    (NOREPLICAS + IN_70, Unavailable),
    (MISCONF, Unavailable),
    (IN_62 + "@user_script: 1: -" + MISCONF, Unavailable),
    (MISCONF + IN_70, Unavailable),
    ("NOSCRIPT No matching script. Please use EVAL.", Unavailable),
    ("LOADING Redis is loading the dataset in memory", Unavailable),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Unavailable),
    ("CLUSTERDOWN Hash slot not served", Unavailable),
    ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable),
    ("MOVED 3999 127.0.0.1:6381", outcome.Moved),
    ("ASK 3999 127.0.0.1:6381", Unavailable),
    (
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        Unavailable,
    ),
    ("ERR max number of clients reached", Unavailable),
    ("EXECABORT Transaction discarded because of previous errors.", Unavailable),
    ("NOAUTH Authentication required.", AccessDenied),
    ("WRONGPASS invalid username-password pair or user is disabled.", AccessDenied),
    ("NOPERM this user has no permissions to run the 'lpush' command", AccessDenied),
    ("NOPERM this user has no permissions to access one of the keys used as arguments", AccessDenied),
    ("ERR unknown command `BLMOVE`, with args beginning with: `a`, ", UnsupportedServer),
    ("ERR unknown command 'BLMOVE', with args beginning with: 'a' ", UnsupportedServer),
    ("ERR This instance has cluster support disabled", UnsupportedServer),
]
UNKNOWN = [
    IN_62 + "@user_script: 1: The user executing the script can't run this command or subcommand",
    "ERR The user executing the script can't run this command or subcommand" + IN_70,
    IN_62 + "@user_script: 1: Unknown Redis command called from Lua script",
    IN_62 + "user_script:1: attempt to perform arithmetic on a nil value",
    "ERR user_script:1: attempt to perform arithmetic on a nil value" + IN_70,
    IN_62 + "Script killed by user with SCRIPT KILL...",
    "ERR something that a later server says",
    "ERR This Redis command is not allowed from script" + IN_70,
    "NEWCODE of a later server",
    "",
    "   ",
]


@pytest.mark.parametrize(("text", "kind"), REFUSED)
def test_refused(text: str, kind: type[Refused]) -> None:
    """Each of these means not executed, with the address, the server's words (without the digest of a script) and
    what to try."""
    for form in (text, text.removeprefix("ERR ")):  # redis-py takes ERR off
        error = outcome.of_reply(form, "queue 'q': put", "localhost:6379")
        assert type(error) is kind
        assert str(error).startswith("queue 'q': put: Redis at localhost:6379 refused")
        assert form.removesuffix(IN_70) in str(error)
        assert IN_70 not in str(error)
        assert str(error).endswith(".")


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown(text: str) -> None:
    """An error of which we do not know that it stands before the first write may have run in part."""
    error = outcome.of_reply(text, "queue 'q': put", "localhost:6379")
    assert type(error) is OutcomeUnknown
    assert "it may have run" in str(error)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("ERR This instance has cluster support disabled", "It is no node of a Cluster: name it alone"),
        (
            "ERR unknown command `SENTINEL`, with args beginning with: `GET-MASTER-ADDR-BY-NAME`",
            "It is no sentinel",
        ),
        (
            "ERR unknown command 'SENTINEL', with args beginning with: 'GET-MASTER-ADDR-BY-NAME'",
            "It is no sentinel",
        ),
        ("NOPERM this user has no permissions to run the 'lpush' command", "what reliq doctor --acl prints"),
    ],
)
def test_advice(text: str, advice: str) -> None:
    """The next step is that of this mistake."""
    assert advice in str(outcome.of_reply(text, "ask", "localhost:6379"))


def test_words_of_others_are_no_codes() -> None:
    """A code in the middle of a plain error, or in small letters inside a script, decides nothing."""
    for text in ("ERR no READONLY here", IN_62 + "user_script:9: 'busy' moved"):
        assert isinstance(outcome.of_reply(text, "w", "h"), OutcomeUnknown)


def test_silence() -> None:
    """Not sent is refused; sent without an answer is unknown; each also is the fitting built-in error."""
    refused = outcome.not_sent("put", "h:1", "Connection refused")
    unknown = outcome.no_answer("put", "h:1", "timed out")
    assert isinstance(refused, Unavailable)
    assert isinstance(refused, ConnectionError)
    assert isinstance(unknown, TimeoutError)
    assert not isinstance(unknown, Refused)
    assert isinstance(unknown, ReliqError)


@pytest.mark.parametrize(("where", "reason", "advice"), [
    ("localhost:6379/0", "Connection refused", "Check that it runs and that RELIQ_URL or url= names it."),
    ("localhost:80/0", 'Protocol error, got "H" as reply type byte', "What listens there is no Redis"),
    ("localhost:6379/0 by TLS", "Timeout connecting to server", "takes TLS there; if it does not, the URL"),
])  # fmt: skip
def test_what_to_try_if_it_is_not_reached(where: str, reason: str, advice: str) -> None:
    """It depends on how it was not."""
    error = outcome.not_sent("connect", where, reason)
    assert f"cannot reach Redis at {where} ({reason}). " in str(error)
    assert advice in str(error)
