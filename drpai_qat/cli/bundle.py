"""`drpai-qat bundle`: a folder to copy to the board."""

from __future__ import annotations

from typing import Any

import click

from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.cli.click_options import options_from
from drpai_qat.cli.exit_status import DONE, guarded, say
from drpai_qat.cli.folder_argument import FOLDER, PATH
from drpai_qat.cli.json_output import json_flag, print_json


@click.command(short_help="Write a folder to copy to the board.")
@FOLDER
@click.option("--target", metavar="NAME", help="Target that OUT must have been compiled for.  [default: any]")
@click.option("-o", "--output_dir", metavar="DIR", type=PATH, required=True, help="Folder to write, for the board.")
@click.option(
    "--runtime",
    metavar="DIR",
    type=PATH,
    help="Folder that holds libtvm_runtime.so and libtvm_ffi.so for the board.  [default: from the wheels, with pip]",
)
@options_from(TargetOptions, only=("toolchain_dir",))
@click.option("--cross_compiler", metavar="CC", help="C or C++ cross compiler.  [default: aarch64-linux-gnu-g++]")
@click.option(
    "--force", is_flag=True, help="Also bundle a network whose check fell short, or that is for another target."
)
@json_flag()
@click.pass_context
def bundle_command(context: click.Context, /, **values: Any) -> None:
    """Write a folder to copy to the board.

    Network, sample data, runtime libraries, a compiled runner and a Python one: copy it and start ./run_inference.
    """
    context.exit(guarded(lambda _: _bundle(values), verbose=False))


def _bundle(values: dict[str, Any]) -> int:
    from drpai_qat.backends.cpu.bundle import RUNNER, bundle

    output = values["output_dir"]
    passed_over = bundle(
        values["folder"],
        output,
        target=values["target"],
        runtime_dir=values["runtime"],
        toolchain_dir=values["toolchain_dir"],
        cross_compiler=values["cross_compiler"],
        force=values["force"],
    )
    for line in passed_over:
        say(f"warning: {line}; bundled all the same (--force)")
    files = {str(path.relative_to(output)): path.stat().st_size for path in output.rglob("*") if path.is_file()}
    if values["as_json"]:
        print_json({"output_dir": str(output), "files": files})
    else:
        click.echo(f"{output}: {sum(files.values()) / 1e6:.1f} MB; copy it to the board and run ./{RUNNER}")
    return DONE
