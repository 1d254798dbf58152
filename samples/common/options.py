"""Options that train.py and qat_retrain.py of both frameworks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

CONTEXT = {"help_option_names": ["-h", "--help"]}
GRAY_NETWORKS = ("mnist_mlp",)  # read one channel of 28x28

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def training_options(learning_rate: float, max_epochs: int, models: Sequence[str]) -> Decorator:
    """-lr, --max_epochs and --model, with these defaults."""
    positive = click.FloatRange(min=0, min_open=True)
    return _together(
        click.option("-lr", "--learning_rate", type=positive, default=learning_rate, show_default=True),
        click.option("--max_epochs", type=click.IntRange(min=1), default=max_epochs, show_default=True),
        click.option("--model", type=click.Choice(models), default="resnet50", show_default=True),
    )


def batch_size_option() -> Decorator:
    """--batch_size; two at least, for batch norm's sake."""
    return click.option("--batch_size", type=click.IntRange(min=2), default=32, show_default=True)


def run_options(gpu: str, loaders: str) -> Decorator:
    """--seed, --device, --workers and --resume.

    Args:
        gpu: what the framework calls a GPU.
        loaders: what loads data beside the training: "Processes" or "Threads".
    """
    devices, workers = f"cpu, {gpu}, {gpu}:1, ...", f"{loaders} loading data."
    return _together(
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--device", default="auto", show_default=True, help=devices),
        click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help=workers),
        click.option("--resume", is_flag=True, help="Go on after an interruption."),
    )


def compile_options() -> Decorator:
    """--compile, of what is trained here, and --ptq, of the float network beside it."""
    return _together(
        click.option(
            "--compile/--no-compile", "compiles", default=True, show_default=True, help="Compile and test INT8 too."
        ),
        click.option("--ptq", is_flag=True, help="Quantize the float network after training, too, and test it."),
    )


def output_option() -> Decorator:
    """-o, the folder that files are written to and read from."""
    folder = click.Path(file_okay=False, path_type=Path)
    return click.option("-o", "--output_dir", type=folder, default=Path(), show_default="this folder")


def _together(*options: Decorator) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):  # click lists the last decorator first
            command = option(command)
        return command

    return decorate
