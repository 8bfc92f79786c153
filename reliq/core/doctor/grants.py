"""What an ACL user must be allowed to do, taken from the scripts and from what the shells send.

Redis checks the rights of the user for every command that a script calls, so those count like our own. Whether a
user has a right is found out without running anything: inside of MULTI a command is checked and queued, and
DISCARD drops them all. That needs no right to read ACLs, and works where a managed server has no ACL command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from reliq.core.command import Arg, Command, Flow
from reliq.core.doctor import ours
from reliq.core.doctor.finding import CannotSee
from reliq.core.keys import Keys
from reliq.errors import ReliqError

_NO_SHA: Final = "0" * 40
#: The id of no client. Not 0: to CLIENT KILL of Redis 6.2 that means all of them.
_NOBODY: Final = 2**63 - 1

IN_SCRIPTS: Final = ours.verbs()
"""What the scripts call."""

SENT: Final = frozenset(
    {
        # by every connection
        *("CLIENT SETNAME", "CLIENT ID", "INFO"),
        # by producers, consumers, workers and reapers
        *("EVALSHA", "EVAL", "BLMOVE", "WAIT", "CLIENT UNBLOCK", "CLIENT KILL", "SCAN", "TIME", "SET"),
        # by commands that look
        *("EXISTS", "GET", "HGETALL", "HLEN", "HMGET", "HSCAN", "LLEN", "LRANGE", "TYPE", "XREVRANGE", "XRANGE"),
        *("ZCARD", "ZCOUNT", "ZLEXCOUNT", "ZMSCORE", "ZRANGE", "ZREVRANGE"),
    }
)
"""What reliq sends anywhere; a test compares it with the code and with what a server has counted."""

IN_CLUSTER: Final = frozenset({"CLUSTER SLOTS", "ASKING"})
BY_SENTINEL: Final = frozenset({"ROLE"})
FOR_DOCTOR: Final = frozenset(
    {"CONFIG GET", "SLOWLOG GET", "ACL WHOAMI", "CLUSTER INFO", "MEMORY USAGE", "MULTI", "DISCARD"}
)
"""What only ``reliq doctor`` asks, and can do without: it then says what it cannot see."""

ESSENTIAL: Final = ours.verbs_at_work() | {"EVALSHA", "EVAL", "BLMOVE", "CLIENT SETNAME"}
"""What messages cannot be put and handled without. Without the others a restart is noticed later, strays are not
found, put(replicas=) is never confirmed, there is no ledger, or a command that looks or repairs fails."""

#: What makes a command complete enough to be checked. None of it is ever run. Others take a key and one word.
_ARGUMENTS: Final[Mapping[str, Sequence[Arg]]] = {
    "INFO": ("server",),
    "CLIENT SETNAME": ("reliq",),
    "CLIENT ID": (),
    "CLIENT UNBLOCK": (_NOBODY,),
    "CLIENT KILL": ("ID", _NOBODY),
    "EVALSHA": (_NO_SHA, 0),
    "EVAL": ("return 1", 0),
    "WAIT": (0, 1),
    "WAITAOF": (0, 0, 1),
    "SCAN": (0,),
    "TIME": (),
    "ROLE": (),
    "ASKING": (),
    "CLUSTER SLOTS": (),
}
_BEHIND_KEY: Final[Mapping[str, Sequence[Arg]]] = {
    **dict.fromkeys(("DEL", "EXISTS", "GET", "PERSIST", "PTTL", "STRLEN", "TYPE", "UNLINK"), ()),
    **dict.fromkeys(("HGETALL", "HLEN", "LLEN", "RPOP", "ZCARD"), ()),
    **dict.fromkeys(("HINCRBY", "HSET", "HSETNX", "LRANGE", "LREM", "LSET", "LTRIM", "ZADD", "ZCOUNT"), (1, 1)),
    **dict.fromkeys(("XRANGE", "XREVRANGE", "XTRIM", "ZRANGE", "ZRANGEBYSCORE", "ZREVRANGE"), (1, 1)),
    **dict.fromkeys(("ZLEXCOUNT", "ZRANGEBYLEX"), ("-", "+")),
    "HSCAN": (0,),
    "BLMOVE": ("{key}", "RIGHT", "RIGHT", 1),
    "RENAME": ("{key}",),
    "XADD": ("*", "x", "x"),
}


def needed(version: str, *, cluster: bool = False, sentinel: bool = False, database: int = 0) -> list[str]:
    """The commands that a user of reliq needs on such a server, by name."""
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    return sorted(
        IN_SCRIPTS
        | SENT
        | (IN_CLUSTER if cluster else frozenset())
        | (BY_SENTINEL if sentinel else frozenset())
        | (frozenset({"SELECT"}) if database else frozenset())
        | (frozenset({"WAITAOF"}) if numbers >= (7, 2) else frozenset())
    )


def granting(commands: Iterable[str]) -> list[str]:
    """``+lpush``, ``+client|kill``: as ACL SETUSER takes them."""
    return [f"+{command.lower().replace(' ', '|')}" for command in sorted(commands)]


def patterns(prefix: str, adopted: Iterable[str]) -> list[str]:
    """``~reliq:*``: the keys under a prefix, and lists that were adopted by name."""
    return [f"~{_literal(prefix)}:*", *(f"~{_literal(key)}" for key in sorted(set(adopted)))]


def _literal(text: str) -> str:
    """As a pattern that fits this text; a pattern may not hold white space, and ``?`` fits that too."""
    escaped = "".join("\\" + c if c in "*?[]\\^" else c for c in text)
    return re.sub(r"\s", "?", escaped)


def line(user: str, words: Iterable[str]) -> str:
    """What to type to grant it."""
    return shlex.join(["redis-cli", "ACL", "SETUSER", user, *words])


def sample(command: str, key: str) -> tuple[Arg, ...]:
    """The command with arguments enough to be checked."""
    if command in _ARGUMENTS:
        return (*command.split(), *_ARGUMENTS[command])
    behind = (key if arg == "{key}" else arg for arg in _BEHIND_KEY.get(command, ("x",)))
    return (*command.split(), key, *behind)


def all_keys(keys: Keys) -> list[str]:
    """Every kind of key of a queue, with an imaginary consumer and id."""
    nobody = "doctor"
    return [
        *(keys.ready, keys.inbox(nobody), keys.doing(nobody), keys.consumers, keys.session(nobody), keys.later),
        *(keys.dead, keys.events, keys.traces, keys.stats, keys.producers, keys.marker(bytes(16))),
        *(keys.body(bytes(16)), keys.lock, keys.schedules, keys.ticks, keys.uniques, keys.unique(bytes(16))),
        *(keys.purging("ready"), keys.purging("later"), keys.lanes, keys.turns),
        *(keys.result(bytes(16)), keys.progress(bytes(16)), keys.once(bytes(16))),
    ]


def denied_commands_g(keys: Keys, commands: Sequence[str]) -> Flow[Mapping[str, str] | CannotSee]:
    """Those of the commands that this user may not run, or that are not there, and what the server says."""
    asked = [command for command in commands if command != "SELECT"]  # who is connected has done that
    answers = yield from _checked_g(keys, [sample(command, keys.session("doctor")) for command in asked])
    if isinstance(answers, CannotSee):
        return answers
    return {
        command: str(said)
        for command, said in zip(asked, answers, strict=True)
        if _is_no(said) and not _is_about_keys(said)
    }


def forbidden_keys_g(keys: Keys) -> Flow[Sequence[str] | CannotSee]:
    """Those of the queue's keys that this user may not read and write."""
    asked = all_keys(keys)
    answers = yield from _checked_g(keys, [("EVALSHA", _NO_SHA, 1, key) for key in asked])
    if isinstance(answers, CannotSee):
        return answers
    return [key for key, said in zip(asked, answers, strict=True) if _is_no(said) and _is_about_keys(said)]


def _checked_g(keys: Keys, lines: Sequence[tuple[Arg, ...]]) -> Flow[Sequence[Any] | CannotSee]:
    """What the server answers to each when it is queued. Never sent unless MULTI was seen to be obeyed: without it
    they would run."""
    try:
        opened = yield _transaction(keys, [])
        if opened != [b"OK", b"OK"]:
            return CannotSee("MULTI and DISCARD are not obeyed here")
        replies = yield _transaction(keys, lines)
    except ReliqError as error:
        return CannotSee(f"MULTI: {because(error)}")
    return list(replies[1:-1])


def _transaction(keys: Keys, lines: Sequence[tuple[Arg, ...]]) -> Command:
    return Command("MULTI", (), after=(*lines, ("DISCARD",)), idempotent=True, queue=keys.queue)


def _is_no(said: Any) -> bool:
    """Whether an answer says that it is not for us; a slot that moves or a full memory say nothing of that."""
    code = getattr(said, "status_code", "")
    return isinstance(said, Exception) and (
        code == "NOPERM" or "no permissions" in str(said) or "unknown command" in str(said)
    )


def _is_about_keys(said: Any) -> bool:
    """Refused for a key, and not for the command: ``no permissions to access …``, in all versions."""
    return "access" in str(said)


def because(error: Exception) -> str:
    """What the server said, in its own words."""
    return " ".join(str(error.__cause__ or error).split())
