"""`drpai-qat inspect`: what a file is, before it is compiled."""

from __future__ import annotations

from typing import Any

import click

from drpai_qat.cli.click_options import TitledCommand, group_from, options_from
from drpai_qat.cli.exit_status import DONE, NAMED_ERROR, guarded, say
from drpai_qat.cli.json_output import json_flag, print_json
from drpai_qat.source.model_options import ModelOptions

_OPTIONS = ("input_shape", "input_name", "outputs", "max_memory")
_WIDTH = 80


@click.command(cls=TitledCommand, short_help="Say what an ONNX file is, and what will become of it.")
@click.argument("model", metavar="MODEL.onnx")
@options_from(ModelOptions, only=_OPTIONS)
@json_flag()
@click.pass_context
def inspect_command(context: click.Context, /, as_json: bool, **values: Any) -> None:
    """Say what an ONNX file is, without compiling it: who made it, what is trained in it, what will run in integers.

    The last line is the command to run next. Exit status: 0 it compiles, 1 it can't be read or compiled, 2 wrong
    usage.
    """
    given = dict.fromkeys(("qat_type",)) | {"strict": False} | values
    options = group_from(ModelOptions, context, given, model=values["model"])
    context.exit(guarded(lambda _: _inspect(options, as_json), verbose=False))


def _inspect(options: ModelOptions, as_json: bool) -> int:
    from rich.console import Console

    from drpai_qat.inspection import content, terminal

    found = content.inspect(options)
    if as_json:
        print_json(found.to_json())
    else:
        console = Console()
        terminal.show(found, console if console.is_terminal else Console(width=_WIDTH))
    if found.refused:
        say(f"error: {found.refused}")
        return NAMED_ERROR
    return DONE
