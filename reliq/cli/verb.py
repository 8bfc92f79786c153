"""What a command is, and the options that all of them take."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from reliq.cli import text
from reliq.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, by the same way as everything else."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}{self._near(message)}. See {self.prog} --help")

    def _near(self, message: str) -> str:
        """What an option that there is not may have been meant to be."""
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        known = [option for option in self._option_string_actions if option.startswith("--")]
        return text.near(unknown[0], known) if message.startswith("unrecognized") and unknown else ""


@dataclass(frozen=True)
class Verb:
    """One command. ``configure`` adds the options that only this verb has; ``run`` does the work and returns
    the exit status. ``many_queues``: whether ``--queue`` can be repeated."""

    name: str
    summary: str
    details: str
    example: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    queue_help: str
    many_queues: bool = False

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the options behind the verb; ConfigError says what is wrong with them."""
        return self.parser().parse_args(words)

    def parser(self) -> Parser:
        """The parser of this verb: its own options first, then those that all verbs take."""
        parser = Parser(
            prog=f"reliq {self.name}",
            description=textwrap.fill(f"{self.summary[0].upper()}{self.summary[1:]}. {self.details}", 79),
            epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.configure(parser)
        common = parser.add_argument_group("options of every command")
        common.add_argument(
            "--url",
            help="redis://, rediss://, redis+sentinel:// or unix:// (default: $RELIQ_URL, or $RELIQ_HOST and the "
            "like, else a private embedded Redis); its password can be in $RELIQ_PASSWORD or $RELIQ_PASSWORD_FILE",
        )
        if self.many_queues:
            common.add_argument(
                "--queue", action="append", default=[], metavar="NAME", help=f"{self.queue_help}; can be repeated"
            )
        else:
            common.add_argument("--queue", metavar="NAME", help=self.queue_help)
        common.add_argument("--prefix", help="of all keys (default: $RELIQ_PREFIX, else reliq)")
        common.add_argument(
            "--codec",
            metavar="MODULE:ATTR",
            help="a codec of yours that a queue was given, to read and write its bodies; looked for here, too",
        )
        common.add_argument("--json", action="store_true", help='print JSON with "schema": 1')
        return parser


@dataclass(frozen=True)
class Verbs:
    """Commands of two words that share the first one, as in ``reliq dead ls``. ``alone``: what the first one does
    without a second."""

    name: str
    summary: str
    verbs: tuple[Verb, ...]
    alone: Verb | None = None

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Find the command by its second word and read the options behind it."""
        by_name = {verb.name.removeprefix(f"{self.name} "): verb for verb in self.verbs}
        if self.alone is not None and (not words or words[0].startswith("-")):
            args = self.alone.parse(words)
            args.verb = self.alone
            return args
        if words and words[0] in ("-h", "--help", "help"):
            print(self._help(by_name))
            raise SystemExit(0)
        if not words or words[0] not in by_name:
            near = text.near(words[0], by_name) if words else ""
            named = words and not words[0].startswith("-")
            what = (
                f"there is no command {self.name} {words[0]!r}{near}"
                if named
                else f"{self.name} needs a second word"
            )
            raise ConfigError(f"{what}: {', '.join(by_name)}, as in {self.verbs[0].example}")
        verb = by_name[words[0]]
        args = verb.parse(words[1:])
        args.verb = verb
        return args

    def run(self, args: argparse.Namespace) -> int:
        """Run what was parsed."""
        verb: Verb = args.verb
        return verb.run(args)

    def _help(self, by_name: dict[str, Verb]) -> str:
        width = max(map(len, by_name)) + 2
        lines = [f"  {name:<{width}}{verb.summary}" for name, verb in by_name.items()]
        return "\n".join(
            [
                f"usage: reliq {self.name} COMMAND [options]",
                "",
                *lines,
                "",
                f"example:\n  {self.verbs[0].example}",
                "",
                "Every one takes --url, --queue, --prefix, --codec, --json and --help, all behind it.",
            ]
        )
