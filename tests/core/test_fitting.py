"""Bodies become what a handler is annotated with, or the error names the field."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliq.core.codec import CODECS, Codec
from reliq.core.fitting import fitter
from reliq.errors import DecodeError

if TYPE_CHECKING:
    from nowhere import Unknown

CODEC = pytest.mark.parametrize("codec", [CODECS["msgpack"], CODECS["json"]], ids=["msgpack", "json"])
Sku = NewType("Sku", str)


class Colour(Enum):
    RED = "red"
    BLUE = 2


@dataclass(frozen=True)
class Line:
    sku: Sku
    price: Decimal = Decimal(0)


@dataclass
class Order:
    id: UUID
    lines: list[Line] = field(default_factory=list)
    placed: datetime = datetime(2030, 1, 1, tzinfo=timezone.utc)
    day: date | None = None
    at: time | None = None
    takes: timedelta = timedelta(0)
    colour: Colour = Colour.RED
    pair: tuple[int, str] = (1, "a")
    many: tuple[int, ...] = ()
    by_name: dict[str, Line] = field(default_factory=dict)
    kind: Literal["gift", 7] = "gift"
    noted: Annotated[str, "anything"] = ""
    part: Order | None = None
    either: Line | int | str = 0
    share: float = 0.0
    some: Sequence[Line] = field(default_factory=list)
    loose: Any = None
    path: Unknown = None  # nothing is known of it at run time
    paid: bool = False
    made: int = field(default=0, init=False)


class Person(pydantic.BaseModel):
    name: str
    born: date
    mail: str = pydantic.Field(default="", alias="e-mail")
    tags: set[str] = set()


FULL = Order(
    UUID(int=17),
    [Line(Sku("tea"), Decimal("1.10")), Line(Sku("milk"))],
    datetime(2030, 1, 2, 3, tzinfo=timezone.utc),
    date(2030, 1, 2),
    time(9, 30),
    timedelta(seconds=90.5),
    Colour.BLUE,
    (2, "b"),
    (1, 2, 3),
    {"x": Line(Sku("rum"))},
    7,
    "noted",
    Order(UUID(int=18)),
    Line(Sku("jam")),
    1.0,
    [Line(Sku("ham"))],
    {"any": [1]},
    "/tmp",
    True,
)
ID = "00000000-0000-0000-0000-000000000011"


def fit(wanted: Any, body: Any) -> Any:
    found = fitter(wanted)
    assert found is not None
    return found(body)


@CODEC
@pytest.mark.parametrize(
    "body", [FULL, Order(UUID(int=1)), Line(Sku("x"), Decimal("NaN"))], ids=["full", "few", "flat"]
)
def test_what_was_sent_is_what_arrives(codec: Codec, body: Any) -> None:
    """Through a codec and back, in all its nested parts."""
    assert repr(fit(type(body), codec.decode(codec.encode(body)))) == repr(body)


@CODEC
def test_models(codec: Codec) -> None:
    """Those of pydantic, by the names that they have outside; and inside of others."""
    ada = Person.model_validate({"name": "Ada", "born": "1815-12-10", "e-mail": "ada@example.org", "tags": {"x"}})
    sent = codec.decode(codec.encode(ada))
    assert sent["e-mail"] == "ada@example.org"
    assert fit(Person, sent) == ada
    assert fit(list[Person], codec.decode(codec.encode([ada]))) == [ada]


def test_what_is_annotated_otherwise_stays() -> None:
    """Only classes of the user's are made of bodies."""
    for annotation in (
        dict[str, Any],
        Any,
        int | None,
        str,
        Colour,
        typing.TypedDict("Map", {"a": int}),
        "Order",
        None,
    ):  # type: ignore[operator]
        assert fitter(annotation) is None
    for annotation in (Order, Order | None, list[Order], dict[str, Person], Line | Order):
        assert fitter(annotation) is not None


def test_one_of_several() -> None:
    """The first that fits, or nothing if that is allowed."""
    assert fit(Line | Order, {"id": ID}) == Order(UUID(int=17))
    assert fit(Order | None, None) is None


def test_more_fields_than_are_known() -> None:
    """Are left out: the producer may be newer."""
    assert fit(Line, {"sku": "tea", "new": 1}) == Line(Sku("tea"))


class Checked:
    def __post_init__(self) -> None:
        raise ValueError("no such account")


@dataclass
class Account(Checked):
    id: int


@pytest.mark.parametrize(
    ("wanted", "body", "says"),
    [
        (Order, {}, "the body is no Order: id is missing"),
        (Order, [], "it is a list that is no map of Order's fields"),
        (Order, {"id": "17"}, "id is a str that is no UUID"),
        (Order, {"id": ID, "lines": [{"sku": "tea"}, {"price": "1"}]}, r"lines\[1\]\.sku is missing"),
        (
            Order,
            {"id": ID, "lines": [{"sku": "tea", "price": "much"}]},
            r"lines\[0\]\.price is a str that is no Decimal",
        ),
        (Order, {"id": ID, "lines": {"sku": "tea"}}, "lines is a dict that is no list"),
        (Order, {"id": ID, "day": datetime(2030, 1, 1)}, "day is a datetime that is no date"),
        (Order, {"id": ID, "takes": 1e300}, "takes is a float that is no timedelta"),
        (Order, {"id": ID, "colour": "green"}, "colour is a str that is no Colour"),
        (Order, {"id": ID, "pair": [1]}, "pair is a list that is no tuple of 2"),
        (Order, {"id": ID, "many": [True]}, r"many\[0\] is a bool that is no int"),
        (Order, {"id": ID, "by_name": {"a": 1}}, r"by_name\['a'\] is an int that is no map of Line's fields"),
        (Order, {"id": ID, "by_name": {1: {}}}, "a key of by_name is an int that is no str"),
        (Order, {"id": ID, "kind": "sale"}, "kind is a str that is no one of 'gift', 7"),
        (Order, {"id": ID, "part": {"id": ID, "paid": 1}}, r"part\.paid is an int that is no bool"),
        (Order, {"id": ID, "either": 1.5}, "either is a float that is no .*Line"),
        (Order | None, {}, "id is missing"),
        (list[Line], [{"sku": "a"}, {}], r"\[1\]\.sku is missing"),
        (Account, {"id": 1}, "Account was refused by its class: ValueError: no such account"),
        (Person, {"name": 1, "born": "1815-12-10"}, "name: Input should be a valid string"),
        (list[Person], [{"name": "Ada", "born": "today"}], r"\[0\]\.born: Input should be a valid date"),
        (Person, None, "it: Input should be a valid dictionary"),
    ],
)
def test_what_does_not_fit(wanted: Any, body: Any, says: str) -> None:
    """Says what is wanted, and which field is wrong; never its value, which may be a secret."""
    with pytest.raises(DecodeError, match=says) as caught:
        fit(wanted, body)
    assert caught.value.code == "UNDECODABLE"


@given(
    st.dictionaries(
        st.sampled_from(list(Order.__dataclass_fields__)),
        st.none() | st.integers() | st.text() | st.lists(st.text()),
    )
)
def test_any_map_fits_or_is_undecodable(body: dict[str, Any]) -> None:
    """Nothing else comes of it."""
    for wanted in (Order, Person, Order | None):
        try:
            found = fit(wanted, body)
        except DecodeError:
            continue
        assert isinstance(found, Order | Person)
