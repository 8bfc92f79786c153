"""`reliq completion`: scripts that complete what the parsers know."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from reliq.cli.completion import SHELLS, commands, fish, zsh
from reliq.cli.program import VERBS
from tests.cli.conftest import Commands


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    asked = f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _reliq; printf "%s\\n" "${{COMPREPLY[@]}}"'
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", asked, "bash", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash(commands: Commands) -> None:
    """Commands, second words, options and their values; of each command its own."""
    script = commands("completion", "bash").out
    assert completed(script, "reliq", "pu") == ["put", "purge"]
    assert set(completed(script, "reliq", "")) == set(VERBS)
    assert completed(script, "reliq", "put", "--ty") == ["--type"]
    assert completed(script, "reliq", "dead", "re") == ["revive"]
    assert completed(script, "reliq", "dead", "revive", "--exc") == ["--exception"]
    assert completed(script, "reliq", "workers", "--st") == ["--stacks"]
    assert completed(script, "reliq", "workers", "--stacks", "--ur") == ["--url"]
    assert completed(script, "reliq", "worker", "--log-level", "w") == ["warning"]
    assert completed(script, "reliq", "worker", "shop", "--burst", "--reloa") == ["--reload", "--reload-dir"]
    assert completed(script, "reliq", "completion", "z") == ["zsh"]
    assert completed(script, "reliq", "purge", "--state", "l") == ["later"]
    assert completed(script, "reliq", "no-such", "--u") == []


@pytest.mark.parametrize("shell", list(SHELLS))
def test_every_command_and_option_is_in_it(shell: str) -> None:
    """And where the shell is here, it can read that."""
    script = "\n".join(SHELLS[shell](commands()))
    for command in commands():
        assert command.words.split()[-1] in script
        for option in command.options:
            for name in option.names:
                dashed = (
                    name if shell != "fish" else f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                )
                assert dashed in script
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n"], input=script, text=True, check=True)


def test_texts_are_quoted() -> None:
    """Whatever stands in the help of an option: every quote is closed, and no line is broken."""
    for line in [*zsh(commands()), *fish(commands())]:
        assert "\n" not in line
        assert line.replace("\\'", "").replace("'\"'\"'", "").count("'") % 2 == 0, line


def test_wrong_shell(commands: Commands) -> None:
    """Told, with those that there are."""
    result = commands("completion", "tcsh")
    assert result.status == 2
    assert "choose from" in result.error
