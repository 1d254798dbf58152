"""The command line: `drpai-qat` with its commands, and compile_onnx_model_quant.py.

Exit status: 0 done and checked, 1 a named error, 2 wrong usage, 3 compiled but the check fell short; 130, 143 or 129 if
Ctrl-C, kill or a closed terminal ended it. What a process does around that is in program.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from drpai_qat.cli.bundle import bundle_command
from drpai_qat.cli.click_options import CONTEXT
from drpai_qat.cli.command_groups import GroupedCommands
from drpai_qat.cli.compare import compare_command
from drpai_qat.cli.compile import compile_command
from drpai_qat.cli.doctor import doctor_command
from drpai_qat.cli.evaluate import evaluate_command
from drpai_qat.cli.exit_status import DONE, INTERRUPTED, say
from drpai_qat.cli.handover import handover_command
from drpai_qat.cli.inspect import inspect_command
from drpai_qat.cli.profile import profile_command
from drpai_qat.cli.run import run_command
from drpai_qat.version import described


@click.group(cls=GroupedCommands, context_settings=CONTEXT)
@click.version_option(described(), package_name="drpai-qat")
def drpai_qat() -> None:
    """QAT ONNX models as INT8 networks, for DRP-AI boards and CPUs.

    Each command has a --help of its own.
    """


drpai_qat.add_command(inspect_command, "inspect")
drpai_qat.add_command(compile_command, "compile")
drpai_qat.add_command(compare_command, "compare")
drpai_qat.add_command(evaluate_command, "evaluate")
drpai_qat.add_command(run_command, "run")
drpai_qat.add_command(profile_command, "profile")
drpai_qat.add_command(bundle_command, "bundle")
drpai_qat.add_command(handover_command, "handover")
drpai_qat.add_command(doctor_command, "doctor")


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
        say("interrupted")
        return INTERRUPTED
    return status if isinstance(status, int) else DONE
