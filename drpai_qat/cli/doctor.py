"""`drpai-qat doctor`: what this machine has of what compiling needs."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from drpai_qat.backends import table
from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.cli.click_options import TitledCommand, options_from
from drpai_qat.cli.exit_status import DONE, NAMED_ERROR, guarded
from drpai_qat.cli.json_output import json_flag, print_json
from drpai_qat.core.errors import DrpaiQatError, OptionError
from drpai_qat.core.findings import Finding
from drpai_qat.core.text import one_line
from drpai_qat.version import described

_TARGET = ("target", "toolchain_dir", "cross_compiler")
_SDK = ("drp_compiler_dir", "quantization_tool")
_LEAST_ROOM = 20  # columns that are worth wrapping in


@click.command(cls=TitledCommand, short_help="Say what this machine has of what compiling needs.")
@options_from(TargetOptions, only=_TARGET)
@options_from(SdkOptions, only=_SDK)
@json_flag()
@click.pass_context
def doctor_command(context: click.Context, /, **values: Any) -> None:
    """Say what this machine has of what compiling needs, line by line: what, found, what to do.

    Give the options that you compile with: they decide what is needed. The text is what to send along with a question.
    Exit status: 0 all there, 1 something that is needed is missing, 2 wrong usage.
    """
    try:
        target = TargetOptions(**{name: values[name] for name in _TARGET})
        sdk = SdkOptions(**{name: values[name] for name in _SDK})
        table.known(target.target)
    except OptionError as error:
        raise click.UsageError(one_line(error, 1000), context) from None
    context.exit(guarded(lambda _: _doctor(target, sdk, values["as_json"]), verbose=False))


def _doctor(target: TargetOptions, sdk: SdkOptions, as_json: bool) -> int:
    from drpai_qat.backends.cpu.requirements import requirements
    from drpai_qat.backends.drpai_sdk.installation import BOARDS, Examination

    examined = Examination(sdk)
    product = next((one.found for one in examined.findings if one.what == "PRODUCT"), "")
    if sdk.uses_tools and target.target == "host":  # the accelerator's companion is the board's CPU
        target = replace(target, target=BOARDS.get(product, target.target))
    findings = [*requirements(target), *_extras(target), *examined.findings]
    missing = sum(one.missing for one in findings)
    if as_json:
        lines = [{"state": _state(one), **vars(one)} for one in findings]
        print_json({"version": described(), "missing": missing, "findings": lines})
    else:
        click.echo(f"drpai-qat {described()}")
        width = max(len(one.what) for one in findings)
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0  # whole lines for grep
        for one in findings:
            click.echo(_line(one, width, columns))
        click.echo("everything needed is there" if not missing else f"{missing} missing")
    return NAMED_ERROR if missing else DONE


def _extras(target: TargetOptions) -> Iterator[Finding]:
    """What a target that is no CPU needs of its own: its backend says so."""
    from drpai_qat.backends.cpu.target_names import MACHINES

    if target.target in ("host", "native", *MACHINES):
        return
    what = f"packages for {target.target}"
    try:
        table.backend(target.target).prepare(target)
    except DrpaiQatError as error:
        found, _, todo = one_line(error, 1000).partition(": ")
        yield Finding(what, found, todo or "install them")
    else:
        yield Finding(what, "installed")


def _state(one: Finding) -> str:
    return "missing" if one.missing else "-" if one.todo else "ok"


def _line(one: Finding, width: int, columns: int) -> str:
    head = f"{_state(one):8}{one.what:{width}}  "
    text = one_line(one.found, 1000) + (f" -> {one_line(one.todo)}" if one.todo else "")
    room = columns - len(head)
    lines = textwrap.wrap(text, room, break_on_hyphens=False) if room >= _LEAST_ROOM else [text]
    return head + f"\n{' ' * len(head)}".join(lines)
