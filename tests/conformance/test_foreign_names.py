"""Who comes from another queue, and calls what reliq has by its name there, is told the one here."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

import reliq
from reliq import names
from tests.conformance.shell import Shell


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("enqueue", "put(body)"),
        ("task", "@q.ack"),
        ("get", "with q.consumer()"),
        ("qsize", "size()"),
        ("enqueue_in", "put(body, delay=seconds)"),
    ],
)
def test_the_name_here_is_told(sh: Shell, name: str, here: str) -> None:
    """An AttributeError as any other, with the name in reliq."""
    queue = sh.queue()
    with pytest.raises(AttributeError, match=re.escape(f"has no attribute {name!r}; in reliq it is ")) as caught:
        getattr(queue, name)
    assert here in str(caught.value)
    assert (caught.value.name, caught.value.obj) == (name, queue)


def test_a_queue_is_an_object_like_others(sh: Shell) -> None:
    """Whoever asks whether it has something gets the usual answer, a queue that is half made too."""
    queue = sh.queue()
    assert not hasattr(queue, "enqueue")
    assert not hasattr(queue, "__deepcopy__")
    assert getattr(queue, "nonsense", 7) == 7
    with pytest.raises(AttributeError, match=r"^'Queue' object has no attribute 'nonsense'$"):
        getattr(queue, "nonsense")  # noqa: B009
    assert copy.copy(queue).name == queue.name
    assert not hasattr(sh.Queue.__new__(sh.Queue), "options")
    with pytest.raises((TypeError, AttributeError), match=r"pickle|local|reduce"):  # its connections cannot
        pickle.dumps(queue)


def test_every_name_here_is_one(sh: Shell) -> None:
    """No name of others is one of ours, and what is told is there."""
    assert not [name for name in names._NAMES if hasattr(sh.Queue, name)]
    for here in names._HERE:
        if here.startswith("a Worker"):
            assert "until_empty" in inspect.signature(reliq.Worker.__init__).parameters
            continue
        method = getattr(sh.Queue, re.match(r"\w+", here)[0])  # type: ignore[index]
        told = re.findall(r"(\w+)=", here)
        assert set(told) <= set(inspect.signature(method).parameters)
    listed = " ".join(names._HERE.values()).split()
    assert len(listed) == len(set(listed))
