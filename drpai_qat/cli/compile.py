"""`drpai-qat compile` and compile_onnx_model_quant.py: one command under two names.

The compiler is imported after the options are checked, so that --help and usage errors are immediate.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import click
from rich.console import Console

from drpai_qat.cli.click_options import CONTEXT, Titled, TitledCommand, group_from, options_from
from drpai_qat.cli.exit_status import CHECK_FELL_SHORT, DONE, guarded, say
from drpai_qat.cli.json_output import json_flag, print_json
from drpai_qat.core.interrupts import Interrupts
from drpai_qat.core.quiet import nothing_silenced
from drpai_qat.options import CompileOptions
from drpai_qat.version import described

_PLAIN_WIDTH = 140

flag = partial(click.option, cls=Titled, is_flag=True)


@click.command(
    cls=TitledCommand, context_settings=CONTEXT, short_help="Compile a QAT or float ONNX model into an INT8 network."
)
@click.argument("model", metavar="MODEL.onnx")
@flag("-a", "--qat", title="Model", help="The model comes from quantization-aware training; needs -m.")
@options_from(CompileOptions)
@flag("--quiet", title="Messages", help="Print errors only.")
@json_flag()
@flag(
    "--verbose",
    title="Messages",
    help="Also print what was folded, what libraries say, and a traceback of internal errors.",
)
@click.version_option(described(), package_name="drpai-qat", cls=Titled, title="Messages")
@click.help_option("-h", "--help", cls=Titled, title="Messages")
@click.pass_context
def compile_command(context: click.Context, /, **values: Any) -> None:
    """Compile a QAT-trained ONNX model, or a float one, into an INT8 deployment network.

    Keeps every range that training learned; a model without any is calibrated with --images or --calibration. The
    result is checked against onnxruntime. Long options may be written with dashes. Exit status: 0 done and checked,
    1 error, 2 wrong usage, 3 compiled but the check fell short; 130, 143 or 129 if Ctrl-C, kill or a closed terminal
    ended it, and then nothing was written.
    """
    if values["qat"] and values["qat_type"] is None:
        raise click.UsageError("-a needs -m: give -m pytorch or -m tensorflow", context)
    if values["qat_type"] is not None and not values["qat"]:
        raise click.UsageError("-m needs -a: give both for a QAT model", context)
    options = group_from(CompileOptions, context, values, model=values["model"])
    quiet, verbose, as_json = (values[name] for name in ("quiet", "verbose", "as_json"))
    context.exit(guarded(lambda stop: _compile(options, stop, quiet, verbose, as_json), verbose))


def _compile(options: CompileOptions, interrupts: Interrupts, quiet: bool, verbose: bool, as_json: bool) -> int:
    from drpai_qat import pipeline
    from drpai_qat.core import console_progress, progress
    from drpai_qat.report import terminal

    if not quiet:
        for line in options.remarks():
            say(f"note: {line}")
    stages = progress.Silent() if quiet else console_progress.for_console(Console(stderr=True))
    with nothing_silenced() if verbose else nullcontext():
        report = pipeline.run(options, interrupts.watch(stages))
    if as_json:
        print_json({"output_dir": str(report.output_dir), **report.to_json()})
    elif not quiet:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_PLAIN_WIDTH)  # rich would wrap at 80
        terminal.show(report, console, notes=verbose)
    elif not report.passed:
        missed = () if report.check is None or report.check.passed else report.check.shortfalls
        uncertified = "" if report.check is None else report.check.uncertified
        say("; ".join(filter(None, (report.too_few_integers, *missed, uncertified))))
    return DONE if report.passed else CHECK_FELL_SHORT
