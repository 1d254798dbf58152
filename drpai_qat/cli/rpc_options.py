"""Options that name another machine to run on, for the commands that run a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from drpai_qat.runtimes.remote import Address

_Command = TypeVar("_Command", bound=Callable[..., Any])


def rpc_options(what: str) -> Callable[[_Command], _Command]:
    """--rpc, --rpc-tracker and --rpc-key.

    Args:
        what: the command does there: "Run".
    """

    def added(command: _Command) -> _Command:
        for option in (
            click.option("--rpc_key", metavar="KEY", help="Kind of machine to ask for.  [default: OUT's target]"),
            click.option(
                "--rpc_tracker", metavar="HOST:PORT", help=f"{what} on a machine that this TVM RPC tracker lends."
            ),
            click.option("--rpc", metavar="HOST:PORT", help=f"{what} on the machine of this TVM RPC server."),
        ):
            command = option(command)
        return command

    return added


def check_rpc(values: Mapping[str, Any], context: click.Context) -> None:
    """Refuse what does not fit together.

    Raises: UsageError: it does not.
    """
    if values["rpc"] and values["rpc_tracker"]:
        raise click.UsageError("--rpc names one machine, --rpc-tracker asks for any: give one of them", context)
    if values["rpc_key"] and not values["rpc_tracker"]:
        raise click.UsageError("--rpc-key is for --rpc-tracker: give both", context)


@dataclass(frozen=True)
class Place:
    """Where to run.

    Attributes:
        address: of an RPC server, or with `key` of a tracker.
        key: kind of machine to ask the tracker for.
    """

    address: Address
    key: str | None

    def __str__(self) -> str:
        return str(self.address) if self.key is None else f"{self.key} of {self.address}"


def place_of(values: Mapping[str, Any], folder: Path) -> Place | None:
    """The machine that the options name; None: this one.

    Raises: OptionError: an address is none. DeploymentError: the folder's deploy.json can't be read.
    """
    from drpai_qat.deployment import manifest
    from drpai_qat.runtimes.remote import Address

    if values["rpc"]:
        return Place(Address.parse(values["rpc"], "--rpc"), None)
    if not values["rpc_tracker"]:
        return None
    address = Address.parse(values["rpc_tracker"], "--rpc-tracker")
    return Place(address, values["rpc_key"] or str(manifest.read(folder).target.get("name")))
