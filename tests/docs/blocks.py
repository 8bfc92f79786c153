"""The code blocks of a Markdown file, and a way to run them: as a reader would, from top to bottom.

What the first word after the fence means:

`python`         run; the blocks of one section (`##`) share a namespace. A first line `# tasks.py` also saves
                 the block under that name and imports it from there, so that commands can name the module.
`console`        lines that begin with `$ ` are run, with those that carry on (`> `, or after a backslash);
                 all others are output
`sh`, `bash`     run
`text`, `json`.. shown only (DATA); any other word is an error, so that no code goes unnoticed

A second word `no-run` is for what cannot run here (it needs root, or another machine): it is only checked for
its syntax. Run as a program this file runs one section: `python blocks.py FILE NUMBER`.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

SHELL = {"console", "sh", "bash", "shell"}
DATA = {"", "text", "json", "yaml", "toml", "ini", "crontab", "systemd", "dockerfile", "mermaid", "lua"}


class BadBlock(Exception):
    """A block that breaks the rules above."""


@dataclass(frozen=True)
class Block:
    language: str
    source: str
    line: int
    """Of the first line of code in the file, counted from 1."""
    run: bool = True

    def script(self) -> str:
        """The shell commands of a console, sh or bash block."""
        if self.language != "console":
            return self.source
        commands: list[str] = []
        for line in self.source.splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
            elif commands and (line.startswith("> ") or commands[-1].endswith("\\")):
                commands.append(line.removeprefix("> "))
        if not commands:
            raise BadBlock(f"line {self.line}: a console block without a line that begins with `$ `")
        return "\n".join(commands)


@dataclass
class Section:
    title: str
    number: int
    blocks: list[Block] = field(default_factory=list)


def sections(path: Path) -> list[Section]:
    """The sections of a file that hold code, divided at its headings of the first two levels."""
    found = [Section(path.name, 0)]
    tokens = MarkdownIt().parse(path.read_text("utf-8"))
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and token.tag in ("h1", "h2") and following is not None:
            found.append(Section(following.content, len(found)))
        elif token.type == "fence" and token.map is not None:
            language, *words = token.info.split() or [""]
            line = token.map[0] + 2
            if language in DATA:
                continue
            if language not in {"python", *SHELL} or words not in ([], ["no-run"]):
                raise BadBlock(f"line {line - 1}: ```{token.info} is no kind of block that is known here")
            found[-1].blocks.append(Block(language, token.content, line, run=not words))
    return [section for section in found if section.blocks]


def run_section(path: Path, section: Section) -> None:
    """Run the blocks in this process and folder; the first that fails ends it."""
    namespace: dict[str, object] = {"__name__": "__readme__"}
    sys.path.insert(0, "")
    for block in section.blocks:
        print(f"-- {path.name}:{block.line} {block.language}", flush=True)
        if block.language == "python":
            run_python(path, block, namespace)
        else:
            run_shell(block)


def run_python(path: Path, block: Block, namespace: dict[str, object]) -> None:
    where = "\n" * (block.line - 1)  # a traceback then names the line of the Markdown file
    if not block.run:  # it may be a cell of a notebook, which can await
        compile(where + block.source, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return
    code = compile(where + block.source, str(path), "exec")
    if named := re.match(r"# (\w+)\.py\b", block.source):
        Path(f"{named[1]}.py").write_text(block.source, "utf-8")
        importlib.invalidate_caches()
        namespace.update(vars(importlib.import_module(named[1])))
    else:
        exec(code, namespace)


def run_shell(block: Block) -> None:
    options = ["-euo", "pipefail"] if block.run else ["-n"]
    subprocess.run(["bash", *options, "-c", block.script()], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    file, number = Path(sys.argv[1]), int(sys.argv[2])
    (chosen,) = (section for section in sections(file) if section.number == number)
    run_section(file, chosen)
