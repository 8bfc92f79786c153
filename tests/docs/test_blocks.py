"""Every code block of the documents runs, on a private server, in a folder and a HOME of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.blocks import BadBlock, Section, sections
from tests.docs.documents import DOCUMENTS, name
from tests.servers import NO_SERVER, RedisServer, find_servers

SAMPLE = Path(__file__).with_name("sample.md")
SECONDS = 120
"""One section may take this long; a block that never ends is a failure."""


@pytest.fixture
def private_server() -> Iterator[RedisServer]:
    """The newest server here, for one section alone."""
    binaries = find_servers()
    assert binaries, NO_SERVER
    with RedisServer(binaries[-1]) as running:
        yield running


def run(path: Path, section: Section, folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run one section in a process of its own, with this environment's commands first on the PATH."""
    bin_folder = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "HOME": str(folder),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "RELIQ_URL": url,
        "PYTHONWARNINGS": "error",
        # pytest-asyncio, which is here for our own tests, would warn.
        "PYTEST_ADDOPTS": "-o asyncio_default_fixture_loop_scope=function",
    }
    return subprocess.run(
        [sys.executable, blocks.__file__, path, str(section.number)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )


def assert_runs(path: Path, section: Section, folder: Path, url: str) -> None:
    done = run(path, section, folder, url)
    assert done.returncode == 0, f"{path.name}, section {section.title!r}:\n{done.stdout}"


@pytest.mark.parametrize(
    ("path", "section"),
    [
        pytest.param(path, section, id=f"{name(path)}: {section.title}")
        for path in DOCUMENTS
        for section in sections(path)
    ],
)
def test_documents(path: Path, section: Section, tmp_path: Path, own_server: RedisServer) -> None:
    """A reader who types this section into a shell and a Python gets through it."""
    assert_runs(path, section, tmp_path, own_server.url)


@pytest.mark.parametrize("section", sections(SAMPLE), ids=lambda section: section.title)
def test_sample(section: Section, tmp_path: Path, private_server: RedisServer) -> None:
    """Blocks run in order with shared names, `no-run` blocks don't, and a section starts afresh."""
    assert_runs(SAMPLE, section, tmp_path, private_server.url)


def test_sections_of_the_sample() -> None:
    """Sections divide at `#` and `##` and hold every block that is code, also one inside a list."""
    found = {section.title: [block.language for block in section.blocks] for section in sections(SAMPLE)}
    assert found == {
        "Sample": ["python", "console", "python"],
        "A new section forgets them": ["python", "python", "sh", "sh", "python"],
    }


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("```python\nx = 1\n\nraise ValueError('boom')\n```", "line 6"),
        ("```python no-run\n)\n```", "SyntaxError"),
        ("```console\n$ echo fine; false; true\n```", "fine"),
        ("```sh\nfalse | true\n```", "CalledProcessError"),
        ("```sh no-run\nif\n```", "CalledProcessError"),
        ("```console\nno command\n```", "BadBlock"),
        ("```python\nimport warnings\nwarnings.warn('old')\n```", "UserWarning"),
    ],
)
def test_failing_block_fails(block: str, says: str, tmp_path: Path) -> None:
    """Each way in which a block can be wrong fails the run, and the output says where."""
    path = tmp_path / "bad.md"
    path.write_text(f"# Bad\n\n{block}\n")
    (section,) = sections(path)
    done = run(path, section, tmp_path, "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert says in done.stdout


@pytest.mark.parametrize("fence", ["py", "python skip", "pyhton", "zsh"])
def test_unknown_kind_of_block_is_an_error(fence: str, tmp_path: Path) -> None:
    """A misspelt language would hide code from this test, so it is refused."""
    path = tmp_path / "bad.md"
    path.write_text(f"```{fence}\n1\n```\n")
    with pytest.raises(BadBlock, match="line 1"):
        sections(path)
