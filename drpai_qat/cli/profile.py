"""`drpai-qat profile`: where the time of a run goes, kernel by kernel and layer by layer."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drpai_qat.cli.exit_status import DONE, guarded, say
from drpai_qat.cli.folder_argument import FOLDER
from drpai_qat.cli.json_output import json_flag, print_json
from drpai_qat.cli.rpc_options import check_rpc, place_of, rpc_options

if TYPE_CHECKING:
    from drpai_qat.deployment.manifest import Manifest
    from drpai_qat.report.profile import Profile

_WIDTH = 80


@click.command(short_help="Say where the time of a run goes, layer by layer.")
@FOLDER
@click.option("-n", "--loops", type=click.IntRange(min=1), default=30, show_default=True, help="Measured runs.")
@click.option("--threads", type=click.IntRange(min=1, max=1024), help="Threads.  [default: all cores]")
@rpc_options("Measure")
@click.option("--all", "whole", is_flag=True, help="List all layers, not the slowest alone.")
@json_flag()
@click.pass_context
def profile_command(context: click.Context, /, **values: Any) -> None:
    """Say where the time of a run goes, kernel by kernel and layer by layer, here or on a board.

    Runs the sample input, with a clock and without in turns, and writes profile.json into OUT. Exit status: 0 done,
    1 error, 2 wrong usage.
    """
    check_rpc(values, context)
    context.exit(guarded(lambda _: _profile(values), verbose=False))


def _profile(values: dict[str, Any]) -> int:
    if values["threads"]:
        os.environ["TVM_NUM_THREADS"] = str(values["threads"])  # read as TVM's runtime is loaded
    from rich.console import Console

    from drpai_qat.deployment import manifest
    from drpai_qat.report import profile_table
    from drpai_qat.report.page.writing import add_times

    folder: Path = values["folder"]
    with tempfile.TemporaryDirectory() as scratch:
        profile = _measured(folder, manifest.read_network(folder), Path(scratch), values)
    profile.write(folder)
    threads = f", {profile.threads} thread{'' if profile.threads == 1 else 's'}" if profile.threads else ""
    times = {one.name: one.us for one in profile.layers}
    if not add_times(folder, times, profile.calls_us, f"{profile.where}{threads}"):
        say("report.html was written by another version: compile again to see the times in it")
    if values["as_json"]:
        print_json(profile.to_json())
    else:
        console = Console()
        most = {"most": 0} if values["whole"] else {}
        profile_table.show(profile, console if console.is_terminal else Console(width=_WIDTH), **most)
        say(f"written to {folder / 'profile.json'}")
    return DONE


def _measured(folder: Path, found: Manifest, scratch: Path, values: dict[str, Any]) -> Profile:
    from drpai_qat.backends.cpu import targets
    from drpai_qat.backends.cpu.call_clock import build_clock
    from drpai_qat.backends.cpu.ceiling import SYMBOL, build_ceiling
    from drpai_qat.core.errors import DeploymentError
    from drpai_qat.deployment.folder import INTERPRETER_OUT
    from drpai_qat.deployment.manifest import LIBRARY
    from drpai_qat.report.profile import profile_of, read_report
    from drpai_qat.runtimes import network as runtime
    from drpai_qat.runtimes import profiling, remote, sample_run

    place = place_of(values, folder)

    if LIBRARY not in found.files:
        raise DeploymentError(
            f"{folder} was compiled for {found.target.get('name')}: it has no kernels of TVM's to time"
        )
    name = str(found.target["name"])
    target = targets.TARGETS[name] if name in targets.TARGETS else targets.host()
    samples = folder / INTERPRETER_OUT
    report, loops, library = read_report(folder), values["loops"], scratch / "ceiling.so"
    if place is not None:
        with remote.RemoteNetwork(folder, place.address, place.key) as board:
            threads, where = board.threads(values["threads"]), str(place)
            clock = build_clock(scratch, target.machine)
            times = profiling.time_calls(board.clocked(sample_run.sample_of(board, samples), clock), loops)
            loop = build_ceiling(target, library)
            best = board.best_seconds(library, SYMBOL, loop[0]) if loop else None
    else:
        network = runtime.load(folder)
        assert isinstance(network, runtime.Network)  # it has a deploy.so
        threads, where = profiling.threads(), "this machine"
        clock = build_clock(scratch, target.machine)
        times = profiling.time_calls(profiling.Here(network, sample_run.sample_of(network, samples), clock), loops)
        loop = build_ceiling(target, library)
        best = profiling.best_seconds(library, SYMBOL, loop[0]) if loop else None
    ceiling = loop[1] / best / 1e9 * threads if loop and best else None
    return profile_of(
        times, report, model=str(found.model.get("name", folder.name)), target=name, where=where, threads=threads,
        ceiling=ceiling,
    )  # fmt: skip
