"""`drpai-qat compare`: two networks side by side."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click
from rich.console import Console

from drpai_qat.cli.click_options import Titled, TitledCommand, group_from, options_from
from drpai_qat.cli.exit_status import CHECK_FELL_SHORT, DONE, guarded
from drpai_qat.compare.compare_options import CompareOptions
from drpai_qat.core.interrupts import Interrupts

flag = partial(click.option, cls=Titled, is_flag=True)


@click.command(cls=TitledCommand, short_help="Hold two networks against each other: parameters, layers, outputs.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options_from(CompareOptions)
@flag("--json", "as_json", title="Messages", help="Print JSON (with schema_version) instead of the table.")
@flag("--quiet", title="Messages", help="Print the verdict only.")
@flag("--verbose", title="Messages", help="Also list what agrees, and a traceback of internal errors.")
@click.pass_context
def compare_command(context: click.Context, /, a: str, b: str, **values: Any) -> None:
    """Hold B against A: an ONNX file, an output folder or a TFLite file each.

    Parameters tensor by tensor; layers, each fed A's integers and on its own; outputs. The verdict names the first
    layer that diverges, and why. Exit status: 0 no layer diverges (or the outputs are within --max-lsb, --atol,
    --rtol), 1 error, 2 wrong usage, 3 otherwise.
    """
    options = group_from(CompareOptions, context, values, a=a, b=b)
    context.exit(guarded(lambda stop: _compare(options, stop, values), values["verbose"]))


def _compare(options: CompareOptions, interrupts: Interrupts, values: dict[str, Any]) -> int:
    from drpai_qat.compare.comparison import compare
    from drpai_qat.compare.text import described
    from drpai_qat.core import console_progress, progress

    silent = values["quiet"] or values["as_json"]
    stages = interrupts.watch(progress.Silent() if silent else console_progress.for_console(Console(stderr=True)))
    found = compare(options, stages)
    if values["as_json"]:
        click.echo(json.dumps(found.to_json(), indent=2, allow_nan=False))
    elif values["quiet"]:
        click.echo(found.verdict)
    else:
        for line in described(found, everything=values["verbose"]):
            click.echo(line)
    return DONE if found.passed else CHECK_FELL_SHORT
