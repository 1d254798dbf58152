"""A written network under the names and types of the ONNX model it was made from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite.writer import LiteModel
from drpai_qat.runtimes.tflite import LiteNetwork


class WrittenNetwork:
    """Runs a written file on this machine.

    Integers of the ONNX model (those that the check layer by layer feeds and reads) are moved to the file's zero points
    and back; float32 is rounded to an input's grid, and restored from an output's.
    """

    def __init__(self, model: LiteModel, *, plain: bool = False, threads: int = 1) -> None:
        """Load the file.

        Args:
            plain: LiteRT's own kernels instead of XNNPACK's.
        Raises: DeploymentError, MissingExtraError: see LiteNetwork.
        """
        self._network = LiteNetwork(model.content, plain=plain, threads=threads)
        self._integers = model.integers

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs by name, for arrays of the ONNX model's types."""
        lite: dict[str, NDArray] = {}
        for info in self._network.inputs:
            value = np.asarray(feeds[info.name])
            if info.name in self._integers:
                value = (value.astype(np.int64) - self._integers[info.name][1]).astype(info.dtype)
            lite[info.name] = value
        found = self._network.run_integers(lite)
        results = {}
        for info in self._network.outputs:
            value = found[info.name]
            if info.name in self._integers:
                dtype, shift = self._integers[info.name]
                value = (value.astype(np.int64) + shift).astype(dtype)
            elif info.quantization is not None:
                value = info.quantization.dequantize(value)
            results[info.name] = value
        return results
