"""``reliq completion``: what a shell needs to complete commands, options and values, made from their parsers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from reliq.cli.failure import FINE
from reliq.cli.verb import Verb, Verbs

#: What stands for a path in the help of an option.
_PATHS: Final = frozenset({"FILE", "FOLDER", "DIR"})


class Option(NamedTuple):
    """An option of a command. ``values``: of which it takes one; ``takes``: "" (none), "value" or "path"."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] = ()
    takes: str = ""


class Command(NamedTuple):
    """A command, of one word or two; without options if it is only the first of two. ``values``: of what stands
    behind it without a name."""

    words: str
    summary: str
    options: tuple[Option, ...] = ()
    values: tuple[str, ...] = ()
    takes: str = ""


def commands() -> list[Command]:
    """All that there are, as the program has them."""
    from reliq.cli.program import VERBS

    return [command for verb in VERBS.values() for command in _of(verb)]


def _of(verb: Verb | Verbs) -> Iterator[Command]:
    if isinstance(verb, Verb):
        yield _command(verb)
        return
    alone = _command(verb.alone) if verb.alone is not None else Command(verb.name, "")
    yield alone._replace(words=verb.name, summary=verb.summary)
    yield from map(_command, verb.verbs)


def _command(verb: Verb) -> Command:
    actions = verb.parser()._actions
    unnamed = next((a for a in actions if not a.option_strings), None)
    options = tuple(_option(action) for action in actions if action.option_strings)
    values, takes = ((), "") if unnamed is None else _value_of(unnamed)
    return Command(verb.name, verb.summary, options, values, takes)


def _option(action: argparse.Action) -> Option:
    text = (action.help or "").split(" (")[0].replace("%(default)s", str(action.default))
    values, takes = ((), "") if action.nargs == 0 else _value_of(action)
    return Option(tuple(action.option_strings), text, values, takes)


def _value_of(action: argparse.Action) -> tuple[tuple[str, ...], str]:
    if action.choices is not None:
        return tuple(map(str, action.choices)), "value"
    return (), "path" if action.metavar in _PATHS else "value"


def _firsts(found: list[Command]) -> list[Command]:
    return [command for command in found if " " not in command.words]


def _seconds(found: list[Command], first: str) -> list[Command]:
    return [command for command in found if command.words.startswith(f"{first} ")]


def _doubles(found: list[Command]) -> list[str]:
    """First words that have a second one."""
    return [command.words for command in _firsts(found) if _seconds(found, command.words)]


# -- bash -----------------------------------------------------------------------------------------------------


def bash(found: list[Command]) -> Iterator[str]:
    """For ``eval "$(reliq completion bash)"``."""
    yield "_reliq() {"
    yield '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" at="" words=""'
    yield '  if [ "$COMP_CWORD" -gt 1 ]; then at="${COMP_WORDS[1]}"; fi'
    yield '  if [[ "$COMP_CWORD" -gt 2 && "${COMP_WORDS[2]}" != -* ]]; then'
    yield f'    case "$at" in {_either(_doubles(found))}) at="$at ${{COMP_WORDS[2]}}" ;; esac'
    yield "  fi"
    yield '  case "$at $prev" in'
    for command in found:
        for option in command.options:
            if option.takes:
                yield f"    {_either(_behind(command, option))}) {_reply(option)}; return ;;"
    yield "  esac"
    yield '  case "$at" in'
    yield f"    '') words={shlex.quote(' '.join(command.words for command in _firsts(found)))} ;;"
    for command in found:
        names = [name for option in command.options for name in option.names]
        seconds = [each.words.split()[1] for each in _seconds(found, command.words)]
        known = " ".join([*seconds, *command.values, *names])
        yield f"    {shlex.quote(command.words)}) words={shlex.quote(known)} ;;"
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$cur"))'
    yield "}"
    yield "complete -o default -F _reliq reliq"


def _either(words: Iterable[str]) -> str:
    return "|".join(map(shlex.quote, words))


def _behind(command: Command, option: Option) -> list[str]:
    """The command, and the option as the last word before what is to be completed."""
    return [f"{command.words} {name}" for name in option.names]


def _reply(option: Option) -> str:
    if option.takes == "path":
        return 'COMPREPLY=($(compgen -f -- "$cur"))'
    return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(option.values))} -- "$cur"))'


# -- zsh ------------------------------------------------------------------------------------------------------


def zsh(found: list[Command]) -> Iterator[str]:
    """For ``eval "$(reliq completion zsh)"`` behind ``compinit``."""
    yield "#compdef reliq"
    yield "_reliq() {"
    yield "  local at=''"
    yield "  local -a known"
    yield "  (( CURRENT > 2 )) && at=$words[2]"
    yield "  if (( CURRENT > 3 )) && [[ $words[3] != -* ]]; then"
    yield f'    case $at in ({_either(_doubles(found))}) at="$at $words[3]" ;; esac'
    yield "  fi"
    yield '  case "$at $words[CURRENT-1]" in'
    for command in found:
        for option in command.options:
            if option.takes:
                values = " ".join(map(shlex.quote, option.values))
                reply = "_files" if option.takes == "path" else f"compadd -- {values}"
                yield f"    ({_either(_behind(command, option))}) {reply}; return ;;"
    yield "  esac"
    yield "  case $at in"
    yield f"    ('') known=({_described((c.words, c.summary) for c in _firsts(found))}) ;;"
    for command in found:
        pairs = [(each.words.split()[1], each.summary) for each in _seconds(found, command.words)]
        pairs += [(value, "") for value in command.values]
        pairs += [(name, option.help) for option in command.options for name in option.names]
        yield f"    ({shlex.quote(command.words)}) known=({_described(iter(pairs))}) ;;"
    yield "  esac"
    yield "  _describe reliq known"
    yield "}"
    yield "compdef _reliq reliq"


def _described(pairs: Iterator[tuple[str, str]]) -> str:
    return " ".join(shlex.quote(f"{word}:{text}" if text else word) for word, text in pairs)


# -- fish -----------------------------------------------------------------------------------------------------


def fish(found: list[Command]) -> Iterator[str]:
    """For ``reliq completion fish | source``."""
    yield "complete -c reliq -f"
    for command in _firsts(found):
        yield _fish("__fish_use_subcommand", f"-a {command.words}", command.summary)
    for command in found:
        first, _, second = command.words.partition(" ")
        here = f"__fish_seen_subcommand_from {first}"
        here += f"; and __fish_seen_subcommand_from {second}" if second else ""
        seconds = [each.words.split()[1] for each in _seconds(found, command.words)]
        for each in _seconds(found, command.words):
            nowhere = f"{here}; and not __fish_seen_subcommand_from {' '.join(seconds)}"
            yield _fish(nowhere, f"-a {each.words.split()[1]}", each.summary)
        if command.values:
            yield _fish(here, f"-a {_fish_word(' '.join(command.values))}", "")
        for option in command.options:
            names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
            values = [f"-a {_fish_word(' '.join(option.values))}"] if option.values else []
            wants = {"": [], "value": ["-x"], "path": ["-r", "-F"]}[option.takes]
            yield _fish(here, " ".join([*names, *wants, *values]), option.help)


def _fish(where: str, what: str, text: str) -> str:
    told = f" -d {_fish_word(text)}" if text else ""
    return f"complete -c reliq -n {_fish_word(where)} {what}{told}"


def _fish_word(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"


# -- the command ----------------------------------------------------------------------------------------------

SHELLS: Final[dict[str, Callable[[list[Command]], Iterator[str]]]] = {"bash": bash, "zsh": zsh, "fish": fish}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(SHELLS), help="which one")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print("\n".join(SHELLS[args.shell](commands())))
    return FINE


VERB = Verb(
    name="completion",
    summary="let bash, zsh or fish complete commands and options",
    details='Prints a script for the shell: in ~/.bashrc write eval "$(reliq completion bash)", in ~/.zshrc the '
    "same with zsh, and in fish: reliq completion fish | source.",
    example='eval "$(reliq completion bash)"',
    configure=configure,
    run=run,
    queue_help="is not needed here",
)
