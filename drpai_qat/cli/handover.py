"""`drpai-qat handover`: the trained network in float32, for those who run the vendor's own script."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from drpai_qat.backends.drpai_sdk.handover_options import HandoverOptions
from drpai_qat.cli.click_options import Titled, TitledCommand, group_from, options_from
from drpai_qat.cli.exit_status import CHECK_FELL_SHORT, DONE, guarded
from drpai_qat.cli.json_output import json_flag, print_json
from drpai_qat.core.interrupts import Interrupts
from drpai_qat.core.option_groups import options_of
from drpai_qat.core.text import one_line

_OPTIONS = tuple(field.name for field, _ in options_of(HandoverOptions) if field.name != "check_samples")

flag = partial(click.option, cls=Titled, is_flag=True)


@click.command(cls=TitledCommand, short_help="Write a float model that keeps the trained ranges, for the SDK's script.")
@click.argument("model", metavar="MODEL.onnx")
@flag("-a", "--qat", title="Model", help="The model comes from quantization-aware training; needs -m.")
@options_from(HandoverOptions, only=_OPTIONS)
@flag("--quiet", title="Messages", help="Print errors only.")
@json_flag()
@click.pass_context
def handover_command(context: click.Context, /, **values: Any) -> None:
    """Write a float model that keeps the trained ranges, with calibration frames, for the SDK's own script.

    A README in the folder says how to use it and what to expect. Exit status: 0 written, or all grids came back as
    trained; 1 error; 2 wrong usage; 3 some came back changed.
    """
    if values["qat"] and values["qat_type"] is None:
        raise click.UsageError("-a needs -m: give -m pytorch or -m tensorflow", context)
    if values["qat_type"] is not None and not values["qat"]:
        raise click.UsageError("-m needs -a: give both for a QAT model", context)
    options = group_from(HandoverOptions, context, {"check_samples": None, **values}, model=values["model"])
    context.exit(guarded(lambda stop: _hand_over(options, stop, values["quiet"], values["as_json"]), verbose=False))


def _hand_over(options: HandoverOptions, interrupts: Interrupts, quiet: bool, as_json: bool) -> int:
    from drpai_qat.backends.drpai_sdk.handover import compare_returned, hand_over
    from drpai_qat.backends.drpai_sdk.returned_grids import counted
    from drpai_qat.core import console_progress, progress

    stages = interrupts.watch(progress.Silent() if quiet else console_progress.for_console(Console(stderr=True)))
    if options.returned is None:
        summary = hand_over(options, stages).summary()
        if as_json:
            print_json({"output_dir": str(options.folder), "summary": summary})
        elif not quiet:
            click.echo(f"{options.folder}: {summary}; {options.folder / 'README.md'} says how to go on")
        return DONE
    grids = compare_returned(options, Path(options.returned), stages)
    changed = [one for one in grids if not one.kept]
    if as_json:
        print_json({"changed": len(changed), "grids": [one.to_json() for one in grids]})
    elif not quiet:
        for one in changed:
            click.echo(one_line(one))
        click.echo(counted(grids))
    return CHECK_FELL_SHORT if changed else DONE
