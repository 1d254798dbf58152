"""The command line: `drpai-qat compile` and compile_onnx_model_quant.py, one command under two names.

Exit status: 0 done and checked, 1 a named error, 2 wrong usage, 3 compiled but the check fell short, 130 Ctrl-C.
The compiler is imported after the options are checked, so that --help and usage errors are immediate.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console

from drpai_qat.check.thresholds import Thresholds
from drpai_qat.cli.board import bundle_command, run_command
from drpai_qat.cli.exit_status import CHECK_FELL_SHORT, DONE, INTERRUPTED, guarded, say
from drpai_qat.core.errors import OptionError
from drpai_qat.core.interrupts import Interrupts
from drpai_qat.core.text import one_line
from drpai_qat.options import (
    CHECK_KINDS,
    COMPILER_VERSIONS,
    CPU_DATA_TYPES,
    QAT_TYPES,
    CompileOptions,
    SdkOptions,
    compile_options,
    refuse_unserved,
)
from drpai_qat.version import __version__

_PLAIN_WIDTH = 140

_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: token.replace("-", "_"),  # --qat-type is --qat_type
    "max_content_width": 100,
}


def _sdk_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the DRP-AI SDK's script: known, and refused until a release serves them."""
    options = (
        click.option("-d", "--drp_compiler_dir", metavar="DIR", help="DRP-AI Translator (a later release)."),
        click.option("-q", "-c", "--quantization_tool", metavar="DIR", help="DRP-AI Quantizer (a later release)."),
        click.option("-p", "--quantization_option", metavar="TEXT", help="Its options (a later release)."),
        click.option(
            "-v", "--drp_compiler_version", type=click.Choice(COMPILER_VERSIONS),
            help="Operator set of the Translator (a later release).",
        ),
        click.option("-r", "--record_dir", metavar="DIR", help="Calibration data (a later release)."),
        click.option("-n", "--num_frame", type=click.IntRange(min=1), help="Calibration frames (a later release)."),
        click.option("--images", metavar="DIR", help="Calibration images (a later release)."),
        click.option(
            "-f", "--cpu_data_type", type=click.Choice(CPU_DATA_TYPES),
            help="Type of layers that stay in floating point; float32 (float16: a later release).",
        ),
        click.option("--level", type=click.IntRange(0, 1), help="Optimization level; 1 (0 needs the SDK)."),
    )  # fmt: skip
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.command(context_settings=_CONTEXT, short_help="Compile a QAT ONNX model into an INT8 network.")
@click.argument("model", metavar="MODEL.onnx")
@click.option("-a", "--qat", is_flag=True, help="MODEL comes from quantization-aware training; needs -m.")
@click.option(
    "-m", "--qat_type", type=click.Choice(QAT_TYPES, case_sensitive=False), help="Framework that trained it; needs -a."
)
@click.option("-o", "--output_dir", metavar="DIR", help="Output folder.  [default: out/<model name>]")
@click.option(
    "-s",
    "--input_shape",
    metavar="SHAPE",
    multiple=True,
    help="Sizes for dynamic dimensions: 1,3,224,224 or name:1,3,224,224; repeatable. A dynamic batch alone becomes 1.",
)
@click.option("-i", "--input_name", metavar="NAME", multiple=True, help="Network input that -s is for; repeatable.")
@click.option(
    "--target",
    metavar="NAME",
    default="host",
    show_default=True,
    help="Machine to compile for: host, rzv2h, rzv2n, aarch64, aarch64-dotprod, avx2 ...",
)
@click.option("--mcpu", metavar="CPU", help="CPU to compile for, as LLVM names it: znver3, cortex-a55, native ...")
@click.option("-t", "--toolchain_dir", metavar="DIR", help="Cross compilation SDK for an Arm target.  [default: $SDK]")
@click.option(
    "--cross_compiler", metavar="CC", help="Compiler that links for an Arm target.  [default: aarch64-linux-gnu-gcc]"
)
@click.option(
    "--check",
    type=click.Choice(CHECK_KINDS),
    default="outputs",
    show_default=True,
    help="Compare with onnxruntime: the outputs, every quantized layer too, or nothing.",
)
@click.option("--min_sqnr", type=float, metavar="DB", default=30.0, show_default=True, help="Least SQNR of an output.")
@click.option("--max_lsb", type=click.FloatRange(min=0), metavar="N", help="Largest error, in steps of the output.")
@click.option("--min_cosine", type=click.FloatRange(-1, 1), metavar="X", help="Least cosine similarity of an output.")
@click.option(
    "--min_top1",
    type=click.FloatRange(0, 1),
    metavar="X",
    default=1.0,
    show_default=True,
    help="Least share of samples with the same class; ties within one step count as the same.",
)
@click.option(
    "--check_samples", type=click.IntRange(min=1), metavar="N", default=4, show_default=True, help="Sample inputs."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sample inputs.")
@click.option("--no_cache", is_flag=True, help="Compile every kernel anew, and keep none in ~/.cache/drpai-qat.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--verbose", is_flag=True, help="Print a traceback with internal errors, and what was folded.")
@_sdk_options
@click.version_option(__version__, package_name="drpai-qat")
@click.pass_context
def compile_command(context: click.Context, /, **values: Any) -> None:
    """Compile a QAT-trained ONNX model into an INT8 deployment network.

    Keeps every range that training learned, and checks the result against onnxruntime. Long options may be written
    with dashes. Exit status: 0 done and checked, 1 error, 2 wrong usage, 3 compiled but the check fell short.
    """
    options = _options(context, values)
    context.exit(guarded(lambda stop: _compile(options, stop, values["quiet"], values["verbose"]), values["verbose"]))


def _options(context: click.Context, values: dict[str, Any]) -> CompileOptions:
    """Check all options before anything is loaded; every mistake is a usage error."""
    if values["qat"] and values["qat_type"] is None:
        raise click.UsageError("-a needs -m: give -m pytorch or -m tensorflow", context)
    if values["qat_type"] is not None and not values["qat"]:
        raise click.UsageError("-m needs -a: give both for a QAT model", context)
    try:
        refuse_unserved(SdkOptions(**{name: values[name] for name in SdkOptions.__dataclass_fields__}))
        return compile_options(
            values["model"],
            qat_type=values["qat_type"],
            output_dir=values["output_dir"],
            input_shape=values["input_shape"],
            input_name=values["input_name"],
            target=values["target"],
            mcpu=values["mcpu"],
            toolchain_dir=values["toolchain_dir"],
            cross_compiler=values["cross_compiler"],
            check=values["check"],
            thresholds=Thresholds(values["min_sqnr"], values["max_lsb"], values["min_cosine"], values["min_top1"]),
            samples=values["check_samples"],
            seed=values["seed"],
            cache=not values["no_cache"],
        )
    except OptionError as error:
        raise click.UsageError(one_line(error, 1000), context) from None


def _compile(options: CompileOptions, interrupts: Interrupts, quiet: bool, verbose: bool) -> int:
    from drpai_qat import pipeline
    from drpai_qat.core import progress
    from drpai_qat.report import terminal

    stages = progress.Silent() if quiet else progress.for_console(Console(stderr=True))
    report = pipeline.run(options, interrupts.watch(stages))
    if not quiet:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_PLAIN_WIDTH)  # rich would wrap at 80
        terminal.show(report, console, notes=verbose)
    elif not report.passed and report.check is not None:
        say("; ".join(filter(None, (*report.check.shortfalls, report.check.divergence))))
    return DONE if report.passed else CHECK_FELL_SHORT


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, package_name="drpai-qat")
def drpai_qat() -> None:
    """QAT ONNX models as INT8 networks, for DRP-AI boards and CPUs."""


drpai_qat.add_command(compile_command, "compile")
drpai_qat.add_command(run_command, "run")
drpai_qat.add_command(bundle_command, "bundle")


def compile_main(arguments: Sequence[str] | None = None) -> int:
    """Run compile_onnx_model_quant.py; returns the exit status."""
    return _run(compile_command, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run drpai-qat; returns the exit status."""
    return _run(drpai_qat, arguments)


def _run(command: click.Command, arguments: Sequence[str] | None) -> int:
    try:
        status = command.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return status if isinstance(status, int) else DONE


if __name__ == "__main__":
    sys.exit(main())
