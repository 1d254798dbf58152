"""`drpai-qat run`: a deployed network on its sample input or on files of the user's, here or on a board."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drpai_qat.cli.exit_status import CHECK_FELL_SHORT, DONE, guarded
from drpai_qat.cli.folder_argument import FOLDER, PATH
from drpai_qat.cli.rpc_options import check_rpc, place_of, rpc_options
from drpai_qat.core.errors import OptionError
from drpai_qat.data.frame_options import PRESETS, check_preprocess

if TYPE_CHECKING:
    from drpai_qat.runtimes.sample_run import Runs

_SCHEMA_VERSION = 1
_COUNT = click.IntRange(min=1)


@click.command(short_help="Run a deployed network on its sample input or on files, here or on a board.")
@FOLDER
@click.option(
    "-i",
    "--input",
    "inputs",
    metavar="FILE",
    type=PATH,
    multiple=True,
    help="Run on this: a .npz, .npy or .bin (float32) file, or an image; repeatable.  [default: the sample input]",
)
@click.option(
    "--preprocess",
    metavar="|".join((*PRESETS, "FILE")),
    help="How an image becomes the network's input.  [default: as recorded in deploy.json]",
)
@click.option("--labels", metavar="FILE", type=PATH, help="Names of the classes, one on each line.")
@click.option("-n", "--loops", type=_COUNT, default=20, show_default=True, help="Timed runs.")
@click.option("--warm_up", type=click.IntRange(min=0), default=3, show_default=True, help="Runs before the clock.")
@click.option("--threads", type=_COUNT, help="Threads of a run here.  [default: all cores, of TFLite files one]")
@rpc_options("Run")
@click.option(
    "-o",
    "--output_dir",
    metavar="DIR|FILE.npz",
    type=PATH,
    help="Write the outputs there: output_<i>.bin, raw float32, of several inputs output_<i>_<k>.bin; or a .npz file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def run_command(context: click.Context, /, **values: Any) -> None:
    """Run a deployed network on its sample input or on files, here or on a board.

    The sample input's outputs are compared with the sample run made when it was compiled. Prints latencies. Exit
    status: 0 identical or within tolerance, 1 error, 2 wrong usage, 3 different.
    """
    check_rpc(values, context)
    if values["threads"] and (values["rpc"] or values["rpc_tracker"]):
        raise click.UsageError("--threads is for this machine: a server has its own TVM_NUM_THREADS", context)
    if not values["inputs"] and (values["preprocess"] or values["labels"]):
        raise click.UsageError("--preprocess and --labels are for -i: give both", context)
    if values["output_dir"] is not None and values["output_dir"].resolve() == values["folder"].resolve():
        raise click.UsageError("-o is the network's own folder: name another one", context)
    try:
        check_preprocess(values["preprocess"])
    except OptionError as error:
        raise click.UsageError(str(error), context) from None
    context.exit(guarded(lambda _: _run(values), verbose=False))


def _run(values: dict[str, Any]) -> int:
    if values["threads"] is not None:
        os.environ["TVM_NUM_THREADS"] = str(values["threads"])  # read when the runtime starts its threads
    with _opened(values) as network:
        return _on_files(network, values) if values["inputs"] else _on_sample(network, values)


@contextlib.contextmanager
def _opened(values: dict[str, Any]) -> Iterator[Runs]:
    folder = values["folder"]
    place = place_of(values, folder)
    if place is None:
        from drpai_qat.runtimes import network as runtime

        yield runtime.load(folder, threads=values["threads"] or 1)
        return
    from drpai_qat.runtimes import remote

    with remote.RemoteNetwork(folder, place.address, place.key) as network:
        yield network


def _on_sample(network: Runs, values: dict[str, Any]) -> int:
    from drpai_qat.runtimes import sample_run

    result = sample_run.run(network, values["folder"], values["loops"], warm_up=values["warm_up"])
    if values["output_dir"] is not None:
        result.write(values["output_dir"])
    if values["as_json"]:
        outputs = [vars(one) for one in result.outputs]
        _print_json({"same": result.same, "outputs": outputs, "latency": result.timing.to_json()})
    else:
        click.echo(str(result))
    return DONE if result.same else CHECK_FELL_SHORT


def _on_files(network: Runs, values: dict[str, Any]) -> int:
    from drpai_qat.data.given_inputs import read_inputs
    from drpai_qat.data.labelled import class_names
    from drpai_qat.deployment import manifest
    from drpai_qat.runtimes import given_run

    labels = class_names(values["labels"]) or ()
    recorded = manifest.read(values["folder"]).preprocessing
    given = read_inputs(values["inputs"], network.inputs, recorded, values["preprocess"])
    result = given_run.run(network, given, values["loops"], values["warm_up"])
    if values["output_dir"] is not None:
        result.write(Path(values["output_dir"]))
    if values["as_json"]:
        _print_json({"inputs": result.to_json(), "latency": result.timing.to_json()})
    else:
        click.echo("\n".join((*result.lines(labels), str(result.timing))))
    return DONE


def _print_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps({"schema_version": _SCHEMA_VERSION, **content}, indent=2))
