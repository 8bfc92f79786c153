"""``reliq errors``: what a code means, where it comes from, and what to do."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any, Final

from reliq.cli import logs, text
from reliq.cli.failure import FINE
from reliq.cli.verb import Verb
from reliq.core import outcome, reasons
from reliq.core.reasons import Kind, Reason
from reliq.errors import ConfigError

_WIDTH: Final = 100


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", nargs="?", metavar="CODE", help="only this one (default: list all)")


def run(args: argparse.Namespace) -> int:
    """Explain one code, or list all. It needs no Redis."""
    logs.set_up_plain()
    if args.code is None:
        _list(as_json=args.json)
    else:
        _explain(args.code, as_json=args.json)
    return FINE


def _list(*, as_json: bool) -> None:
    if as_json:
        text.print_json({"reasons": [record(reason) for reason in Reason]})
        return
    width = max(map(len, Reason))
    for kind in Kind:
        print(f"{kind.value}:")
        for reason in (each for each in Reason if each.kind is kind):
            print(f"  {reason:<{width}}  {reason.summary}")
        print()
    print("More about one: reliq errors CODE")


def _explain(word: str, *, as_json: bool) -> None:
    found, said = reasons.find(word), ""
    if found is None and (error := outcome.refusal(word.upper())):
        found, said = (
            Reason[error.code],
            f"{word.upper()} is an answer of Redis, which reliq raises as {error.code}.",
        )
    if found is None:
        raise ConfigError(
            f"there is no code {word!r}{text.near(word.upper(), Reason.__members__)}; reliq errors lists all"
        )
    if as_json:
        text.print_json(record(found))
        return
    if said:
        print(said)
    print(f"{found}: {found.summary}")
    for label in ("cause", "remedy"):
        print(
            textwrap.fill(
                getattr(found, label), _WIDTH, initial_indent=f"  {label:<8}", subsequent_indent=" " * 10
            )
        )


def record(reason: Reason) -> dict[str, Any]:
    """A reason for programs."""
    texts = {name: getattr(reason, name) for name in ("summary", "cause", "remedy")}
    return {"code": reason.name, "kind": reason.kind.name.lower(), **texts}


VERB = Verb(
    name="errors",
    summary="what a code means, where it comes from, what to do",
    details="The codes stand in what other commands say, in JSON, and in error.code. A code of Redis (OOM, "
    "READONLY) is explained too.",
    example="reliq errors NO_CONSUMERS",
    configure=configure,
    run=run,
    queue_help="makes no difference here",
)
