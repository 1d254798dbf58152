"""Step 3 of the samples: compile an export as a user does, run the result, print the accuracies."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from common.schedule import console

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY))  # an installed drpai_qat goes first

SAMPLES = 8
"""Images that the compiler checks a network on."""

CALIBRATION = 128
"""Images that the float network is calibrated with, without training."""


def compile_network(
    path: Path, folder: Path, qat_type: str | None, images: NDArray[np.float32], options: Sequence[str] = ()
) -> int:
    """Compile as a user types it. Returns 0, or 3 where the compiler's own check fell short.

    Args:
        path: the model, .onnx.
        folder: for the compiled network.
        qat_type: "pytorch" or "tensorflow"; None: a float model.
        images: held-out ones; the compiler checks the network on the first few, which are written beside the model.
        options: further ones of the command.
    Raises: click.ClickException: the compiler refused the model; it has said why.
    """
    samples = path.with_name(f"{path.stem.removesuffix('_fp32')}_samples.npz")
    np.savez(samples, input=images[:SAMPLES])
    # As it works when typed here, in the same environment.
    script = os.path.relpath(REPOSITORY / "compile_onnx_model_quant.py")
    qat = () if qat_type is None else ("-a", "-m", qat_type)
    arguments = [script, str(path), *qat, "-o", str(folder), "--samples", str(samples), *options]
    console.print(f"python {shlex.join(arguments)}", soft_wrap=True, markup=False, highlight=False)
    status = subprocess.run([sys.executable, *arguments], check=False).returncode
    if status not in (0, 3):
        raise click.ClickException(f"the compiler ended with status {status}")
    if status == 3:
        console.print("compiled, but the check above fell short (exit status 3); the table below is of that network")
    return status


def quantize_after_training(
    model: str, folder: Path, images: NDArray[np.float32], held_out: NDArray[np.float32]
) -> Path:
    """Compile the float network of train.py with calibration data, as a user does who tries that first.

    Args:
        model: name of the network.
        folder: where train.py wrote it, and where the compiled network goes.
        images: that calibrate; the training has not seen them.
        held_out: as in compile_network.
    Returns: the compiled network's folder.
    """
    data, compiled = folder / f"pretrained_{model}_calibration.npz", folder / f"PTQ_{model}_int8"
    np.savez(data, input=images)
    compile_network(folder / f"pretrained_{model}.onnx", compiled, None, held_out, ("--calibration", str(data)))
    return compiled


def run_compiled(folder: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The compiled network as a function of float32 images, its input `input` and its output `output`."""
    import drpai_qat

    network = drpai_qat.load(str(folder))
    return lambda images: network.run({"input": images})["output"]


def show(model: str, data: str, rows: dict[str, float]) -> None:
    """Print one accuracy a row."""
    table = Table("network", "top-1", title=f"{model} on {data}")
    for name, accuracy in rows.items():
        table.add_row(name, f"{accuracy:.2%}")
    console.print(table)
