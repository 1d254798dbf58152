"""`drpai-qat run`: a deployed network on its sample input, here or on a board."""

from __future__ import annotations

from typing import Any

import click

from drpai_qat.cli.exit_status import CHECK_FELL_SHORT, DONE, guarded
from drpai_qat.cli.folder_argument import FOLDER, PATH


@click.command(short_help="Run a deployed network on its sample input, here or on a board.")
@FOLDER
@click.option("-n", "--loops", type=click.IntRange(min=1), default=20, show_default=True, help="Timed runs.")
@click.option("--rpc", metavar="HOST:PORT", help="Run on the machine of this TVM RPC server.")
@click.option("--rpc_tracker", metavar="HOST:PORT", help="Run on a machine that this TVM RPC tracker lends.")
@click.option("--rpc_key", metavar="KEY", help="Kind of machine to ask the tracker for.  [default: OUT's target]")
@click.option("-o", "--output_dir", metavar="DIR", type=PATH, help="Write output_<i>.bin there.")
@click.pass_context
def run_command(context: click.Context, /, **values: Any) -> None:
    """Run a deployed network on its sample input, here or on a board.

    Compares with the sample run made when it was compiled, and prints latencies. Exit status: 0 identical or within
    tolerance, 1 error, 2 wrong usage, 3 different.
    """
    if values["rpc"] and values["rpc_tracker"]:
        raise click.UsageError("--rpc names one machine, --rpc-tracker asks for any: give one of them", context)
    if values["rpc_key"] and not values["rpc_tracker"]:
        raise click.UsageError("--rpc-key is for --rpc-tracker: give both", context)
    context.exit(guarded(lambda _: _run(values), verbose=False))


def _run(values: dict[str, Any]) -> int:
    from drpai_qat.runtimes import sample_run

    folder, loops = values["folder"], values["loops"]
    if values["rpc"] or values["rpc_tracker"]:
        from drpai_qat.deployment import manifest
        from drpai_qat.runtimes import remote

        if values["rpc"]:
            address, key = remote.Address.parse(values["rpc"], "--rpc"), None
        else:
            address = remote.Address.parse(values["rpc_tracker"], "--rpc-tracker")
            key = values["rpc_key"] or str(manifest.read(folder).target.get("name"))
        with remote.RemoteNetwork(folder, address, key) as network:
            result = sample_run.run(network, folder, loops)
    else:
        from drpai_qat.runtimes import network as runtime

        result = sample_run.run(runtime.load(folder), folder, loops)
    if values["output_dir"] is not None:
        result.write(values["output_dir"])
    click.echo(str(result))
    return DONE if result.same else CHECK_FELL_SHORT
