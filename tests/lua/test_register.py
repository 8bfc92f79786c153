"""register: the index of queues, and the newest schema that anybody has written for one."""

from __future__ import annotations

import json

import pytest

from reliq.core import ops
from reliq.core.keys import Keys, schema_of
from reliq.errors import NewerSchema
from tests.lua.lab import Lab


def entry(lab: Lab) -> dict[str, object]:
    found: dict[str, object] = json.loads(lab.client.hget(lab.keys.queues, lab.keys.queue))
    return found


def written(lab: Lab, text: str) -> None:
    """Somebody else has written this entry."""
    lab.client.hset(lab.keys.queues, lab.keys.queue, text)


def test_the_entry_is_written_with_the_schema(lab: Lab) -> None:
    """Settings are those of who registered last; the schema is ours, if there is none that can be read."""
    for before in (None, "{}", "[", '{"schema": 7}', '{"key": "\\"schema\\": \\"9.9\\""}', '{"schema": "0.4"}'):
        if before is not None:
            written(lab, before)
        lab.run(ops.register(lab.keys, "json", 7.5, 2))
        settings = {"key": None, "codec": "json", "lease": 7.5, "max_losses": 2}
        assert entry(lab) == settings | {"schema": "1.0"}, before


@pytest.mark.parametrize("spelt", ['{"schema": "1.3"}', '{"schema":"1.3","key":null}'])
def test_a_newer_minor_version_stays(lab: Lab, spelt: str) -> None:
    """An older release writes its settings and goes on, and does not hide that somebody knows more."""
    written(lab, spelt)
    lab.run(ops.register(lab.keys, None, 15, 3))
    assert (entry(lab)["schema"], entry(lab)["lease"]) == ("1.3", 15)


def test_a_newer_major_version_is_left_as_it_is(lab: Lab) -> None:
    """Nothing is written, and whoever asked is told what to do."""
    written(lab, '{"schema": "2.0", "lease": 1}')
    with pytest.raises(NewerSchema, match=r"schema 2\.0, of a later release .* knows 1\.0 .* Upgrade it"):
        lab.run(ops.register(lab.keys, None, 15, 3))
    assert entry(lab) == {"schema": "2.0", "lease": 1}


def test_a_full_memory_refuses_only_what_is_new(own_lab: Lab) -> None:
    """A consumer that comes back to a full Redis finds its entry, and nothing has to be written."""
    again = ops.register(own_lab.keys, None, 15, 3)
    own_lab.run(again)
    own_lab.client.config_set("maxmemory", 1)
    own_lab.run(again)
    with pytest.raises(Exception, match=r"OOM|maxmemory"):
        own_lab.reply(ops.register(Keys("another", own_lab.keys.prefix), None, 15, 3))


@pytest.mark.parametrize(
    ("text", "schema"),
    [("1.0", (1, 0)), ("12.34", (12, 34)), ("2", (1, 0)), ("x.y", (1, 0)), (None, (1, 0)), (2.5, (1, 0))],
)
def test_a_schema_is_read(text: object, schema: tuple[int, int]) -> None:
    """As two numbers; what names none is the first one."""
    assert schema_of(text) == schema
