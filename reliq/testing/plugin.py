"""The pytest plugin, which pytest finds by its entry point; ``-p no:reliq`` leaves it out.

It is installed as a module of its own, ``pytest_reliq`` (in a checkout that is a link in ``entry``): every pytest
where reliq is installed loads it, and most need no reliq. No server starts before a test asks for one.

`reliq_url`         where the session's Redis is: ``$RELIQ_TEST_URL``, else a private server, stopped at the end
`reliq_queues`      makes queues for this test alone, or moves one of the application: ``reliq_queues(app.emails)``
`reliq_aio_queues`  the same with queues of ``reliq.aio``
`reliq_queue`, `reliq_aio_queue`  one such queue, named "test"
`reliq_prove`       ``reliq.testing.prove`` on the session's Redis
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from reliq import aio
    from reliq.sync.queue import Queue
    from reliq.testing.places import Queues
    from reliq.testing.proving.report import Proof


@pytest.fixture(scope="session")
def reliq_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the Redis that this session's tests share. They keep apart by prefix."""
    from reliq.testing import places

    return places.url_in(lambda: tmp_path_factory.mktemp("reliq"))


@pytest.fixture
def _reliq_place(reliq_url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Where this test's queues are, also those that the code under test makes by itself meanwhile."""
    from reliq.testing import places

    prefix = places.fresh_prefix()
    monkeypatch.setenv("RELIQ_URL", reliq_url)
    monkeypatch.setenv("RELIQ_PREFIX", prefix)
    return reliq_url, prefix


@pytest.fixture
def reliq_queues(_reliq_place: tuple[str, str]) -> Iterator[Queues]:
    """Makes queues for this test alone: ``reliq_queues("emails", retry=…)``; what they leave is removed."""
    from reliq.testing.places import Queues

    queues = Queues(*_reliq_place)
    yield queues
    queues.close()


@pytest.fixture
def reliq_aio_queues(_reliq_place: tuple[str, str]) -> Iterator[Queues]:
    """Makes queues of ``reliq.aio`` for this test alone; whichever plugin runs the event loop."""
    from reliq.aio import Queue
    from reliq.testing.places import Queues

    queues = Queues(*_reliq_place, make=Queue)
    yield queues
    queues.close()


@pytest.fixture
def reliq_queue(reliq_queues: Any) -> Queue:
    """An empty queue for this test alone."""
    queue: Queue = reliq_queues()
    return queue


@pytest.fixture
def reliq_aio_queue(reliq_aio_queues: Any) -> aio.Queue:
    """An empty queue of ``reliq.aio`` for this test alone."""
    queue: aio.Queue = reliq_aio_queues()
    return queue


@pytest.fixture
def reliq_prove(reliq_url: str) -> Callable[..., Proof]:
    """``reliq_prove(handler, bodies, effects=…, reset=…)``: fails if the effects depend on what happens."""
    from reliq.testing.proving import prove

    return partial(prove, url=reliq_url)
