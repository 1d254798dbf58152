"""A command's options, made from the groups that state them (drpai_qat.core.option_groups)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field
from typing import Any, TypeVar

import click

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, Option, bounds, build, options_of
from drpai_qat.core.text import one_line

G = TypeVar("G", bound=Group)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: token.replace("-", "_"),  # --qat-type is --qat_type
    "max_content_width": 100,
}


class Titled(click.Option):
    """An option that says under which heading --help lists it."""

    def __init__(self, *args: Any, title: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = title


class TitledCommand(click.Command):
    """A command whose --help lists options by their titles, in the order of declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click.Command."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "title", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def options_from(group: type[Group], *, only: tuple[str, ...] = ()) -> Decorator:
    """The options of a group, those of its bases in the order in which it names them.

    Args:
        only: names of fields; empty: all.
    """
    parts = [base for base in group.__bases__ if base is not Group and issubclass(base, Group)] or [group]
    declared = [
        _click_option(field, option, part.title)
        for part in parts
        for field, option in options_of(part)
        if not only or field.name in only
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(declared):  # click lists the last decorator first
            command = one(command)
        return command

    return decorate


def _click_option(field: Field[Any], option: Option, title: str) -> Decorator:
    about: dict[str, Any] = {"cls": Titled, "title": title, "help": help_text(field, option)}
    if option.kind is bool:
        return click.option(*option.names, field.name, is_flag=True, **about)
    default = None if field.default in (MISSING, ()) else field.default
    about |= {"default": default, "metavar": option.metavar or None}
    if option.choices:
        about["type"] = click.Choice(option.choices, case_sensitive=not option.any_case)
    else:
        about["type"] = option.kind
    return click.option(*option.names, field.name, multiple=option.repeatable, **about)


def help_text(field: Field[Any], option: Option) -> str:
    """What --help says of an option."""
    default = default_text(field, option)
    told = "; ".join(filter(None, (bounds(option), f"default: {default}" if default else "")))
    return f"{option.help}  [{told}]" if told else option.help


def default_text(field: Field[Any], option: Option) -> str:
    """What happens without the option; "" where that is plain."""
    if option.kind is bool or field.default in (None, ()):
        return option.default_text
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def group_from(group: type[G], context: click.Context, values: dict[str, Any], **others: Any) -> G:
    """The group that a command line describes.

    Raises: click.UsageError: a value is wrong, or two contradict each other.
    """
    flat = dict(values)
    for field, option in options_of(group):
        if option.kind is bool and field.default is True:  # the flag says the contrary of the field
            flat[field.name] = not values[field.name]
    try:
        return build(group, flat, **others)
    except OptionError as error:
        raise click.UsageError(one_line(error, 1000), context) from None
