"""The boot path of a command: ``main`` finds the verb, ``Verb.parse`` reads the options behind it, ``run``
works and returns the exit status. Whatever is expected to go wrong arrives here as a ReliqError whose
message already names the thing, the reason and the next step; ``failure`` makes one line and a status of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import reliq
from reliq.cli import (
    check,
    completion,
    dead,
    demo,
    doctor,
    errors,
    explain,
    failure,
    fsck,
    gate,
    metrics,
    peek,
    place,
    purge,
    put,
    reap,
    schedule,
    status,
    tail,
    text,
    top,
    verify,
    waiting,
    worker,
    workers,
)
from reliq.cli.failure import FINE, USAGE
from reliq.cli.verb import Verb, Verbs
from reliq.errors import ConfigError, ReliqError

VERBS: Final[dict[str, Verb | Verbs]] = {
    v.name: v
    for v in (
        demo.VERB,
        worker.VERB,
        put.VERB,
        waiting.CANCEL,
        waiting.RESCHEDULE,
        gate.PAUSE,
        gate.DRAIN,
        gate.RESUME,
        gate.LIMIT,
        purge.VERB,
        status.VERB,
        check.VERB,
        metrics.VERB,
        workers.VERB,
        tail.VERB,
        top.VERB,
        explain.VERB,
        peek.VERB,
        reap.VERB,
        schedule.VERB,
        dead.VERB,
        fsck.VERB,
        doctor.VERB,
        verify.VERB,
        errors.VERB,
        completion.VERB,
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (0 fine, 1 needs attention, 2 usage, 3 Redis unreachable)."""
    words = list(sys.argv[1:] if argv is None else argv)
    text.print_anything()
    try:
        done = _run(words)
        sys.stdout.flush()
    except ReliqError as error:
        return failure.complain(error)
    except SystemExit as end:  # argparse's way to end after --help
        return end.code if isinstance(end.code, int) else USAGE
    except KeyboardInterrupt:
        return failure.INTERRUPTED
    except BrokenPipeError:  # whoever reads our output has seen enough; that is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    finally:
        place.close()
    return done


def _run(words: list[str]) -> int:
    if not words:
        print(_help(), file=sys.stderr)
        return USAGE
    if words[0] in ("-h", "--help", "help"):
        print(_help())
        return FINE
    if words[0] in ("-V", "--version"):
        print(f"reliq {reliq.__version__}")
        return FINE
    verb = _find(words[0])
    return verb.run(verb.parse(words[1:]))


def _find(word: str) -> Verb | Verbs:
    if word in VERBS:
        return VERBS[word]
    if word.startswith("-"):
        raise ConfigError(f"option {word} stands before the command; put it after it, as in reliq status {word}")
    raise ConfigError(
        f"there is no command {word!r}{text.near(word, VERBS)}; the commands are {', '.join(VERBS)}. "
        "See reliq --help"
    )


def _help() -> str:
    lines = [f"  {v.name:<11}{v.summary}" for v in VERBS.values()]
    return "\n".join(
        [
            "usage: reliq COMMAND [options]",
            "",
            *lines,
            "",
            "Every command takes --url, --queue, --prefix, --codec, --json and --help, all behind it.",
            "Exit status: 0 fine, 1 needs attention, 2 wrong usage, 3 Redis unreachable.",
            "New here? Run: reliq demo",
        ]
    )
