"""All keys of a queue live in one Cluster slot, and no queue touches the keys of another."""

from __future__ import annotations

import fnmatch
import re
from binascii import crc_hqx

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from reliq.core.keys import Keys, own_tag, type_of
from reliq.errors import ConfigError

braced = st.text("{}ab:é*", min_size=1, max_size=12)
names = st.text("ab:*?[]^\\-é", min_size=1, max_size=8)


def slot(key: str) -> int:
    return int(key_slot(key.encode()))


def all_keys(keys: Keys) -> list[str]:
    return [
        *(keys.ready, keys.consumers, keys.later, keys.dead, keys.events, keys.stats, keys.producers),
        *(keys.inbox("c"), keys.doing("c"), keys.session("c"), keys.marker(bytes(16))),
        *(keys.schedules, keys.ticks),
    ]


def redis_glob(pattern: str) -> re.Pattern[str]:
    """Redis' glob as a regular expression; fnmatch knows no backslash, so that goes into brackets first."""
    escaped = re.sub(r"\\(.)", lambda m: "[\\^]" if m[1] == "^" else f"[{m[1]}]", pattern)
    escaped = escaped.replace("[\\^]", "^")
    return re.compile(fnmatch.translate(escaped), re.DOTALL)


@given(braced)
def test_own_tag_is_what_redis_hashes(key: str) -> None:
    """The tag that we see in a key is the one that redis-py (and Redis Cluster) hash."""
    tag = own_tag(key)
    hashed = key if tag is None else tag
    assert slot(key) == crc_hqx(hashed.encode(), 0) % 16384


@given(names, st.none() | braced)
def test_one_slot(queue: str, key: str | None) -> None:
    """Every key of a queue hashes alike, unless the adopted key says that no tag can do it."""
    keys = Keys(queue, key=key)
    slots = {slot(k) for k in all_keys(keys) if k != keys.ready}
    assert len(slots) == 1
    if keys.one_slot:
        assert slots == {slot(keys.ready)}


@pytest.mark.parametrize(
    ("key", "tag", "one_slot"),
    [
        (None, "q", True),
        ("orders", "orders", True),
        ("{shop}orders", "shop", True),
        ("a{b}c{d}", "b", True),
        ("a{b", "a{b", True),
        ("a}b", "a%7Db", False),
        ("{}x", "{%7Dx", False),
    ],
)
def test_tags(key: str | None, tag: str, one_slot: bool) -> None:
    """Plain queues, adopted keys, own tags, and the keys whose slot no tag reproduces."""
    keys = Keys("q", key=key)
    assert (keys.tag, keys.one_slot) == (tag, one_slot)
    assert keys.ready == (key or "reliq:{q}:q:ready")


def test_two_queues_that_share_a_tag_share_no_key() -> None:
    """The queue's name stands beside the tag."""
    orders, mails = Keys("orders", key="{shop}orders"), Keys("mails", key="{shop}mails")
    assert slot(orders.doing("c")) == slot(mails.doing("c"))
    assert not set(all_keys(orders)) & set(all_keys(mails))
    assert orders.consumer_of(mails.doing("c")) is None


@given(names, names, names)
def test_lists_pattern_finds_own_lists(queue: str, other: str, consumer: str) -> None:
    """The search for lists finds every inbox and processing list, whatever the queue is called, and its
    names come back out of the keys; the queue's other keys give no consumer."""
    keys = Keys(queue)
    pattern = redis_glob(keys.lists_pattern)
    for key in (keys.inbox(consumer), keys.doing(consumer)):
        assert pattern.match(key)
        assert keys.consumer_of(key) == consumer
    for key in (keys.ready, keys.consumers, keys.session("c"), keys.marker(bytes(16)), keys.dead):
        assert keys.consumer_of(key) is None
    if other != queue:
        assert Keys(other).consumer_of(keys.doing(consumer)) is None


@pytest.mark.parametrize("name", ["", "a b", "a{b", "a}b", "a\nb", "x" * 201, None, 7])
def test_names_that_are_refused(name: object) -> None:
    """A name that would break a key or a tag is an error that names it."""
    with pytest.raises(ConfigError, match="queue name"):
        Keys(name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="prefix"):
        Keys("q", prefix=name)  # type: ignore[arg-type]


def test_empty_key_is_refused() -> None:
    """key='' is a mistake, not a list."""
    with pytest.raises(ConfigError, match="key=''"):
        Keys("q", key="")


def test_prefix_keeps_apart() -> None:
    """Two prefixes share nothing, the index included."""
    a, b = Keys("q", "a"), Keys("q", "b")
    assert not {*all_keys(a), a.queues} & {*all_keys(b), b.queues}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        *(("ready", "list"), ("later", "zset"), ("dead", "zset"), ("consumers", "zset"), ("events", "stream")),
        *(("stats", "hash"), ("producers", "hash"), ("queues", "hash"), ("schedules", "hash"), ("ticks", "zset")),
    ],
)
@pytest.mark.parametrize("queue", ["q", "later", "a:b"])
def test_every_key_has_its_type(part: str, kind: str, queue: str) -> None:
    """By its name alone, also where a queue is called like a part."""
    keys = Keys(queue)
    assert type_of(getattr(keys, part)) == kind
    assert [type_of(k) for k in (keys.inbox("c"), keys.doing("c"), keys.session("c"))] == ["list", "list", "hash"]
    assert type_of(keys.marker(b"i" * 16)) == "string"
    assert type_of(Keys(queue, key="{x}orders").ready) == type_of(Keys(queue, key="a}b").ready) == "list"
