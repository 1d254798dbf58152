"""The road to TFLite: three files of one QAT model, run in LiteRT as on the device, and one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from common.schedule import console

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Ints = NDArray[np.int64]

OPTIONS = ("--target", "tflite", "--tflite-float")
"""What the compiler is given beside its usual options."""


@dataclass(frozen=True)
class Row:
    """One form of the network.

    Attributes:
        classes: its answer for each test image.
        size: bytes of its file; None where there is none to deploy.
    """

    name: str
    classes: Ints
    size: int | None = None


def files_of(folder: Path) -> dict[str, Path]:
    """The compiler's TFLite files by their form."""
    names = {"TFLite INT8": "int8", "TFLite FP16": "float16", "TFLite FP32": "float32"}
    return {name: next(folder.glob(f"*_{suffix}.tflite")) for name, suffix in names.items()}


def interpreted(file: Path) -> Predict:
    """A TFLite file as a function of float32 images, as a program on the device calls it.

    Args:
        file: one input, one output; integers are rounded to the input's grid, and the output's taken off.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        found = []
        for image in images[:, None]:
            value = image
            scale, zero_point = source["quantization"]
            if source["dtype"] == np.int8:
                value = np.clip(np.rint(image / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)
            interpreter.set_tensor(source["index"], value)
            interpreter.invoke()
            output = interpreter.get_tensor(result["index"])
            scale, zero_point = result["quantization"]
            found.append(output if not scale else (output.astype(np.float32) - zero_point) * np.float32(scale))
        return np.concatenate(found)

    return run


def show(title: str, labels: Ints, rows: list[Row], reference: str) -> None:
    """Print accuracy, size, and agreement with the row named `reference`."""
    table = Table("network", "top-1", "kB", f"as {reference}", title=title)
    wanted = next(row for row in rows if row.name == reference).classes
    for row in rows:
        size = "" if row.size is None else f"{row.size / 1000:.0f}"
        right, agree = (float((row.classes == one).mean()) for one in (labels, wanted))
        table.add_row(row.name, f"{right:.2%}", size, f"{agree:.2%}")
    console.print(table)
