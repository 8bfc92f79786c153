"""What a failure says about whether the command was executed: the table behind every retry.

``Refused`` and its kinds: certainly not executed. ``OutcomeUnknown``: it may have been. An error reply
whose meaning is not known counts as unknown, because a script may have written before it failed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from reliq.core.keys import type_of
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


class Moved(Unavailable):
    """The slot is on another node of the Cluster: certainly not executed. The shells go there."""


#: First word of an error reply -> (class, what to do about it). Sources: the Redis 6.2-8 server sources.
_REPLIES: Final[dict[str, tuple[type[Refused], str]]] = {
    "OOM": (QueueFull, "let consumers drain it, raise maxmemory, or wait and put again"),
    "WRONGTYPE": (WrongKeyType, "another program uses this key; choose another queue name or prefix"),
    "NOAUTH": (AccessDenied, "put the password into the URL (redis://:password@host:6379/0) or RELIQ_PASSWORD"),
    "WRONGPASS": (AccessDenied, "check user and password in the URL"),
    "NOPERM": (AccessDenied, "grant the ACL user what reliq doctor --acl prints"),
    "LOADING": (Unavailable, "Redis is reading its data from disk; it answers when that is done"),
    "MASTERDOWN": (Unavailable, "this is a replica without its primary; wait for the failover"),
    "READONLY": (Unavailable, "this is a read-only replica; connect to the primary"),
    "CLUSTERDOWN": (Unavailable, "the cluster is not serving this slot; wait or repair it"),
    "NOREPLICAS": (Unavailable, "fewer replicas than min-replicas-to-write are in step"),
    "MISCONF": (Unavailable, "Redis cannot save to disk and therefore refuses writes; see its log"),
    "BUSY": (Unavailable, "another script is running too long; SCRIPT KILL ends it"),
    "TRYAGAIN": (Unavailable, "a slot is being migrated; the command will pass when that is done"),
    "MOVED": (Moved, "this is a Redis Cluster and the slot is on another node"),
    "ASK": (Unavailable, "a slot is being migrated to another node"),
    "UNBLOCKED": (Unavailable, "the connection was switched to a replica"),
    "SELECT": (UnsupportedServer, "a Redis Cluster has database 0 only: leave the number out of the URL"),
    "NOSCRIPT": (Unavailable, "the script cache was flushed"),
    "EXECABORT": (Unavailable, "the transaction was refused"),
    "max": (Unavailable, "the server's maxclients is reached"),
    "DB": (UnsupportedServer, "this Redis has fewer databases: correct the number at the end of the URL"),
    "AUTH": (AccessDenied, "this Redis has no password: leave user and password out of the URL"),
    "SINGLE": (
        UnsupportedServer,
        "it is no node of a Cluster: name it alone, or behind redis+sentinel:// its sentinels",
    ),
    "SENTINEL": (UnsupportedServer, "it is no sentinel: name the sentinels, or leave out the name of the master"),
    "unknown": (UnsupportedServer, "reliq needs Redis 6.2 or later, or Valkey"),
}


#: Beginnings of replies whose first word says too little -> how they are called above.
_BY_PHRASE: Final = {
    "This instance has cluster support disabled": "SINGLE",
    "unknown command 'SENTINEL'": "SENTINEL",
}
#: What Redis 7 says of where in which script.
_SCRIPT_NAMED: Final = r" script: [0-9a-f]{40}, on @user_script:\d+\.?"
#: How a place is called that is reached by TLS.
TLS: Final = " by TLS"
#: What to do about a connection that fails with these words in its error.
_IN_PLAIN: Final = {
    "Protocol error": "What listens there is no Redis, or wants TLS (rediss://): correct RELIQ_URL or url=.",
    "reset by peer": "Check that it runs; if it wants TLS there, the URL begins with rediss:// (or tls is true).",
}
_BY_TLS: Final = {
    "mismatch, certificate": "Connect to a name that its certificate has, or set tls_check_hostname to false.",
    "certificate verify failed": "Name the file of the CA that has signed it: tls_ca (?ssl_ca_certs= in a URL).",
    "no certificate or crl": "The file that tls_ca names holds no certificate: name the CA's PEM file.",
    "KEY_VALUES_MISMATCH": "The key in tls_key is not that of tls_cert: name the two that belong together.",
    "No such file": "A file of the URL (ssl_ca_certs, ssl_certfile, ssl_keyfile) is not there: correct its path.",
    "PEM lib": "tls_cert and tls_key hold no certificate and key: name the PEM file of each.",
}
#: After these the primary may be elsewhere: the connection is ended, and the next one looks for it.
ELSEWHERE: Final = frozenset({"READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "UNBLOCKED", "MOVED"})


def code_of(text: str) -> str:
    """The word that says what an error reply means, wherever in it that stands."""
    for phrase, code in _BY_PHRASE.items():
        if text.replace("ERR ", "", 1).replace("`", "'").startswith(phrase):
            return code
    words = text.replace("ERR ", "", 1).split() or ["?"]
    code = words[0].lstrip("-@:")
    if "script" in text.lower():  # an error inside a script carries the reason somewhere in its text
        code = next((w.lstrip("-@:") for w in words if w.lstrip("-@:") in _REPLIES and w.isupper()), code)
        if "NOSCRIPT" in text:
            code = "NOSCRIPT"
    return code


def refusal(code: str) -> type[Refused] | None:
    """The error that an answer with this code is raised as; None if the code says nothing to us."""
    return _REPLIES[code][0] if code in _REPLIES else None


def of_reply(text: str, what: str, where: str) -> ReliqError:
    """The error for an error reply: ``what`` was asked (a command or queue), ``where`` is the address."""
    code = code_of(text)
    if code in _REPLIES:
        kind, advice = _REPLIES[code]
        said = re.sub(_SCRIPT_NAMED, "", text)
        return kind(f"{what}: Redis at {where} refused ({said}). {advice[0].upper()}{advice[1:]}.")
    return OutcomeUnknown(f"{what}: Redis at {where} answered {text!r}; it may have run in part.")


def with_key(refused: WrongKeyType, keys: Sequence[str], types: Sequence[object]) -> WrongKeyType:
    """The same error, with the name of the key: ``types`` is what TYPE says of each."""
    found = [(key, kind.decode()) for key, kind in zip(keys, types, strict=True) if isinstance(kind, bytes)]
    wrong = [
        f"The key {key!r} holds a {kind}, where reliq has a {type_of(key)}."
        for key, kind in found
        if kind not in ("none", type_of(key))
    ]
    return WrongKeyType(" ".join([str(refused), *wrong]))


def not_sent(what: str, where: str, reason: object) -> Unavailable:
    """The command never reached Redis completely, so it was not executed."""
    advice = "Check that it runs and that RELIQ_URL or url= names it."
    if where.endswith(TLS):
        advice = (
            "Check that it runs and takes TLS there; if it does not, the URL begins with redis://; if it wants a "
            "certificate of ours, give tls_cert and tls_key."
        )
    known = _BY_TLS if where.endswith(TLS) else _IN_PLAIN
    advice = next((better for sign, better in known.items() if sign in str(reason)), advice)
    return Unavailable(f"{what}: cannot reach Redis at {where} ({reason}). {advice}")


def no_answer(what: str, where: str, reason: object) -> OutcomeUnknown:
    """The command was sent and no answer came."""
    return OutcomeUnknown(f"{what}: sent to Redis at {where}, but no answer came ({reason}); it may have run.")
