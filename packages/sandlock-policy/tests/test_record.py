"""Records behave like frozen, slotted dataclasses without importing `dataclasses`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.record import FrozenDict, record


@record(frozen=True, slots=True)
class Point:
    """A point."""

    x: int
    y: int = 7
    tags: tuple[str, ...] = ()

    @property
    def both(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True)
class Twin:
    x: int
    y: int = 7
    tags: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError(f"{self.value} is not positive")


@record(frozen=True, slots=True, init=False)
class Own:
    value: int

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "value", int(text))


any_fields = st.fixed_dictionaries(
    {"x": st.integers()}, optional={"y": st.integers(), "tags": st.lists(st.text()).map(tuple)}
)


@given(any_fields, any_fields)
def test_a_record_compares_and_shows_itself_as_the_dataclass_does(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert repr(Point(**one)) == repr(Twin(**one)).replace("Twin", "Point")
    assert (Point(**one) == Point(**other)) == (Twin(**one) == Twin(**other))
    assert dataclasses.astuple(Point(**one)) == dataclasses.astuple(Twin(**one))
    assert hash(Point(**one)) == hash(Point(**one))


def test_a_record_is_not_equal_to_another_class_with_the_same_values() -> None:
    assert Point(1) == Point(1)
    twin: Any = Twin(1)
    assert Point(1) != twin


def test_arguments_are_taken_by_position_and_by_name() -> None:
    assert Point(1, 2, ("a",)) == Point(tags=("a",), y=2, x=1) == Point(1, tags=("a",), y=2)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "is missing 'x'"),
        ((1, 2, (), 4), {}, "takes 3 arguments but 4"),
        ((1,), {"x": 2}, "multiple values for argument 'x'"),
        ((1,), {"z": 2}, "unexpected keyword argument 'z'"),
        ((1, 2, ()), {"z": 2}, "unexpected keyword argument 'z'"),
    ],
)
def test_a_wrong_call_is_a_type_error_that_names_the_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Point(*args, **kwargs)


def test_a_record_can_be_neither_changed_nor_extended() -> None:
    point: Any = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="assign to field 'x'"):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="delete field 'x'"):
        del point.x
    with pytest.raises(AttributeError):
        point.other = 2
    assert not hasattr(point, "__dict__")
    assert point == Point(1)


def test_dataclasses_functions_accept_a_record() -> None:
    point = Point(1, tags=("a",))
    assert dataclasses.is_dataclass(Point)
    assert dataclasses.is_dataclass(point)
    assert [(f.name, f.default is dataclasses.MISSING) for f in dataclasses.fields(Point)] == [
        ("x", True),
        ("y", False),
        ("tags", False),
    ]
    assert dataclasses.asdict(point) == {"x": 1, "y": 7, "tags": ("a",)}
    assert dataclasses.replace(point, y=2) == Point(1, 2, ("a",))
    with pytest.raises(TypeError):
        dataclasses.replace(point, z=2)  # type: ignore[call-arg]


def test_copying_and_pickling_keep_the_value() -> None:
    point = Point(1, tags=("a",))
    assert copy.copy(point) == copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point  # noqa: S301


def test_a_record_matches_by_position() -> None:
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)
        case _:
            pytest.fail("the pattern did not match")


def test_methods_docstring_and_signature_stay() -> None:
    assert Point(1).both == 8
    assert Point.__doc__ == "A point."
    assert str(inspect.signature(Point)) == "(x: 'int', y: 'int' = 7, tags: 'tuple[str, ...]' = ()) -> None"


def test_post_init_runs_and_may_refuse() -> None:
    assert Positive(1).value == 1
    with pytest.raises(ValueError, match="-1 is not positive"):
        Positive(-1)


def test_an_own_init_is_kept() -> None:
    assert Own("12").value == 12
    assert pickle.loads(pickle.dumps(Own("12"))) == Own("12")  # noqa: S301


def test_a_mutable_default_is_refused() -> None:
    with pytest.raises(ValueError, match="mutable default"):

        @record(frozen=True, slots=True)
        class Wrong:
            items: list[int] = []  # noqa: RUF012


def test_a_base_class_is_refused() -> None:
    class Base:
        pass

    with pytest.raises(TypeError, match="has a base class"):

        @record(frozen=True, slots=True)
        class Wrong(Base):
            value: int


def test_only_the_frozen_and_slotted_kind_exists() -> None:
    with pytest.raises(TypeError, match="frozen and slotted"):
        record(frozen=False, slots=True)


@given(st.dictionaries(st.text(), st.integers()))
def test_a_frozen_dict_is_the_dict_that_cannot_change(items: dict[str, int]) -> None:
    frozen: Any = FrozenDict(items)
    assert frozen == items
    assert hash(frozen) == hash(FrozenDict(reversed(items.items())))
    assert copy.deepcopy(frozen) == pickle.loads(pickle.dumps(frozen)) == items  # noqa: S301
    for change in (
        lambda: frozen.__setitem__("a", 1),
        lambda: frozen.update(a=1),
        lambda: frozen.__ior__({"a": 1}),
        lambda: frozen.setdefault("a", 1),
        lambda: frozen.pop("a", None),
        frozen.popitem,
        frozen.clear,
    ):
        with pytest.raises(TypeError, match="frozen"):
            change()
    assert frozen == items
