"""One statement of an option, and what is made from it."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, dataclass

import pytest

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, build, option, options_of, subgroup, takes


@dataclass(frozen=True)
class Inner(Group):
    limit: float = option("--limit", kind=float, least=0, most=1, default=0.5, help="A limit.")


@dataclass(frozen=True, kw_only=True)
class Outer(Group):
    kind: str = option("-k", "--kind", choices=("One", "two"), any_case=True, default="two", help="A kind.")
    names: tuple[str, ...] = option("-n", repeatable=True, default=(), help="Names.")
    count: int | None = option("--count", kind=int, least=1, help="How many.")
    inner: Inner = subgroup(Inner)
    other: int = 3


def test_values_get_their_agreed_form() -> None:
    assert Outer(kind="ONE").kind == "One"
    assert Outer(names="a").names == ("a",)  # type: ignore[arg-type]
    assert Outer(names=iter("ab")).names == ("a", "b")  # type: ignore[arg-type]
    assert Outer().inner.limit == 0.5
    assert Outer(inner=None).inner.limit == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "three"}, "-k 'three' is unknown: give One or two"),
        ({"kind": None}, "-k has no value"),
        ({"kind": ""}, "-k is empty: give One or two, or drop it"),
        ({"count": 0}, "--count 0: give at least 1"),
        ({"count": "4"}, "--count '4' is not a whole number"),
        ({"count": 1.5}, "--count 1.5 is not a whole number"),
    ],
)
def test_others_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Outer(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan"), float("inf")])
def test_bounds(limit: float) -> None:
    with pytest.raises(OptionError, match=r"--limit .*: give 0 to 1"):
        Inner(limit)


def test_built_from_flat_values() -> None:
    assert [field.name for field, _ in options_of(Outer)] == ["kind", "names", "count", "limit"]
    built = build(Outer, {"kind": "one", "names": ("a",), "count": None, "limit": 1, "unused": 0}, other=4)
    assert built == Outer(kind="One", names=("a",), inner=Inner(1), other=4)
    with pytest.raises(FrozenInstanceError):
        built.other = 5  # type: ignore[misc]


def test_a_function_that_takes_the_fields() -> None:
    @takes(Outer)
    def count(outer: Outer) -> int:
        """Say how many."""
        return outer.count or 0

    assert count(count=3) == 3
    assert list(inspect.signature(count).parameters) == ["kind", "names", "count", "inner", "other"]
    assert count.__doc__ == "Say how many."
    with pytest.raises(TypeError, match="unexpected keyword argument 'counts'"):
        count(counts=3)  # type: ignore[call-arg]
