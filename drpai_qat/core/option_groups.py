"""What the user may choose, stated once.

A group is a frozen dataclass in the room that it concerns. Each field carries its spelling on the command line, its
help, its default and its bounds (`option`). Made from that:

    cli/click_options.py    the options of a command
    takes                   the keywords of drpai_qat.compile, typed
    docs/options.md         the table of all options
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from drpai_qat.core.errors import OptionError

P = ParamSpec("P")
G = TypeVar("G")
R = TypeVar("R")

_OPTION, _GROUP = "option", "group"


@dataclass(frozen=True)
class Option:
    """How a field is written on the command line, and which values it takes.

    Attributes:
        names: spellings; a flag that turns a default of True off is named for that ("--no_cache").
        help: one sentence or two.
        metavar: stands for the value in the help; "" where `choices` do.
        kind: type of the value; bool: a flag.
        choices: allowed values; in any case of letters if `any_case`.
        least, most: bounds of a number.
        repeatable: may be given several times; the field holds a tuple.
        default_text: says the default where it depends on something else.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    kind: type = str
    choices: tuple[str, ...] = ()
    any_case: bool = False
    least: float | None = None
    most: float | None = None
    repeatable: bool = False
    default_text: str = ""


def option(*names: str, default: Any = None, **about: Any) -> Any:
    """A field of a group; see Option for the arguments."""
    return field(default=default, metadata={_OPTION: Option(names, **about)})


def subgroup(group: type[Group]) -> Any:
    """A field that holds another group, None for its defaults; on the command line its options join the others."""
    return field(default_factory=group, metadata={_GROUP: group})


def options_of(group: type[Group]) -> Iterator[tuple[Field[Any], Option]]:
    """The fields of a group, and of those within it, that have a place on the command line."""
    for one in fields(group):
        if _OPTION in one.metadata:
            yield one, one.metadata[_OPTION]
        elif _GROUP in one.metadata:
            yield from options_of(one.metadata[_GROUP])


def build(group: type[G], values: dict[str, Any], **others: Any) -> G:
    """Make a group from the flat values of a command line, by name of the field.

    Args:
        others: values of fields that are no options.
    Raises: OptionError: a value is out of bounds, or two contradict each other.
    """
    for one in fields(group):  # type: ignore[arg-type]  # a group is a dataclass
        if _OPTION in one.metadata:
            others[one.name] = values[one.name]
        elif _GROUP in one.metadata:
            others[one.name] = build(one.metadata[_GROUP], values)
    return group(**others)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Base of all groups: holds each value to its statement. A group that overrides `__post_init__` calls it."""

    title: ClassVar[str] = ""
    """Heading of its options in --help and docs/options.md."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if _OPTION in one.metadata:
                if value is None and one.default is not None:
                    raise OptionError(f"{one.metadata[_OPTION].names[0]} has no value: give one, or drop it")
                object.__setattr__(self, one.name, _checked(one.metadata[_OPTION], value))
            elif _GROUP in one.metadata and value is None:
                object.__setattr__(self, one.name, one.metadata[_GROUP]())


def _checked(option: Option, value: Any) -> Any:
    """The value in its agreed form.

    Raises: OptionError: it is not one that the option takes.
    """
    name = option.names[0]
    if option.repeatable:
        return (value,) if isinstance(value, str) else tuple(value)
    if value is None or option.kind is bool:
        return value
    if isinstance(value, str) and not value:
        raise OptionError(f"{name} is empty: give {option.metavar or ' or '.join(option.choices)}, or drop it")
    if option.choices:
        known = {choice.lower() if option.any_case else choice: choice for choice in option.choices}
        key = str(value).lower() if option.any_case else value
        if key not in known:
            raise OptionError(f"{name} {value!r} is unknown: give {' or '.join(option.choices)}")
        return known[key]
    if option.kind in (int, float):
        if not isinstance(value, Integral if option.kind is int else Real):
            raise OptionError(f"{name} {value!r} is not {'a whole' if option.kind is int else 'a'} number")
        low, high = option.least, option.most
        number = float(value)
        if number != number or (low is not None and number < low) or (high is not None and number > high):
            raise OptionError(f"{name} {value}: give {bounds(option) or 'a number'}")
    return value


def words(group: Group, without: tuple[str, ...] = ()) -> Iterator[str]:
    """The words of a command line that give a group its values, where they are not the defaults.

    Paths are told by their last part: a report that travels says nothing of the machine it was made on.

    Args:
        without: names of fields to leave out.
    """
    for one in fields(group):
        value = getattr(group, one.name)
        if _GROUP in one.metadata:
            yield from words(value, without)
        elif _OPTION in one.metadata and one.name not in without and value != one.default:
            option = one.metadata[_OPTION]
            for each in value if option.repeatable else (value,):
                if option.kind is bool:
                    yield option.names[0]
                elif isinstance(each, str | int | float | Path):
                    is_path = isinstance(each, Path) or "/" in str(each)
                    text = f"{each:g}" if isinstance(each, float) else str(each)
                    yield from (option.names[0], Path(text).name if is_path else text)


def bounds(option: Option) -> str:
    """The numbers that an option takes: "0 to 1", "at least 1"; "" for all."""
    if option.least is None:
        return ""
    return f"at least {option.least:g}" if option.most is None else f"{option.least:g} to {option.most:g}"


def takes(group: Callable[P, G]) -> Callable[[Callable[[G], R]], Callable[P, R]]:
    """Decorator: a function of a group becomes one of the group's fields, as arguments by their names."""

    def decorate(function: Callable[[G], R]) -> Callable[P, R]:
        signature = inspect.signature(group)

        @functools.wraps(function)
        def taking(*args: P.args, **kwargs: P.kwargs) -> R:
            signature.bind(*args, **kwargs)  # its TypeError names the argument, and not our class
            return function(group(*args, **kwargs))

        returns = inspect.signature(function).return_annotation
        taking.__signature__ = signature.replace(return_annotation=returns)  # type: ignore[attr-defined]
        return taking

    return decorate
