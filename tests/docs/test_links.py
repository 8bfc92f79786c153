"""Whatever a document links to is there: the file, and the heading in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from tests.docs.documents import DOCS, DOCUMENTS, README, ROOT, name

BESIDE = [
    ROOT / "CHANGELOG.md",
    ROOT / "reliq/core/wire.md",
    ROOT / "reliq/core/lua/replies.md",
    ROOT / "scripts/bench/NOTES.md",
    ROOT / "tests/model/README.md",
]
"""Those that belong to a folder of the code."""


@cache
def anchors(path: Path) -> set[str]:
    """Of each heading, as forges make them: small letters, no punctuation, hyphens for spaces; a second heading of
    the same words gets a number."""
    found: dict[str, int] = {}
    tokens = MarkdownIt().parse(path.read_text("utf-8"))
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", following.content.lower()).replace(" ", "-")
            again = found[slug] = found.get(slug, -1) + 1
            if again:
                found[f"{slug}-{again}"] = 0
    return set(found)


def links(path: Path) -> Iterator[str]:
    """All but those to other places of the net."""
    for token in MarkdownIt().parse(path.read_text("utf-8")):
        for child in token.children or ():
            for target in (child.attrGet("href"), child.attrGet("src")):
                if target and not re.match(r"\w+:", str(target)):
                    yield str(target)


def broken(path: Path) -> list[str]:
    """Links of a document that lead nowhere, or out of the project."""
    lost = []
    for link in links(path):
        target, _, anchor = unquote(link).partition("#")
        to = (path.parent / target).resolve() if target else path
        there = to.exists() and to.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(to)):
            lost.append(link)
    return lost


@pytest.mark.parametrize("path", [*DOCUMENTS, *BESIDE], ids=name)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Relative links name files and folders of the project, and anchors headings of the file."""
    assert broken(path) == []


def test_each_document_is_led_to_and_leads_back() -> None:
    """README.md names all of docs/; each says first, in one paragraph, whom it is for, and leads back."""
    named = {link for link in links(README) if re.fullmatch(r"docs/\w+\.md", link)}
    assert named == {name(path) for path in DOCUMENTS if path != README}
    for path in DOCS.rglob("*.md"):
        title, first, *_ = path.read_text("utf-8").split("\n\n")
        assert title.startswith("# "), name(path)
        assert first.startswith("For "), name(path)
        assert "](../README.md" in first, name(path)


def test_the_readme_is_for_one_sitting() -> None:
    """What is new is told in a document of its noun."""
    assert len(README.read_text("utf-8").splitlines()) <= 700


def test_a_broken_link_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In text, in a table and in an image; headings of code and of the same words are known."""
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    path = tmp_path / "a.md"
    path.write_text(
        "# One\n\n## `Two`: its *word*!\n\n## One\n\n```text\n# No heading\n[no](no.md)\n```\n\n"
        "[a](#one) [b](#two-its-word) [c](a.md#one-1) [d](https://example.org/no) [e](.)\n"
        "[f](#no-heading) [g](gone.md) [h](#One) ![i](gone.png) [j](..)\n\n"
        "| | |\n|---|---|\n| x | [k](a.md#three) |\n"
    )
    assert broken(path) == ["#no-heading", "gone.md", "#One", "gone.png", "..", "a.md#three"]
