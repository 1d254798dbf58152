"""A TFLite file as a side of the comparison, whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.certificate import Fineness
from drpai_qat.compare.structure import MOVE, PRODUCT, Feeds, Layer, Run, Structure, Tensor, kind_of
from drpai_qat.runtimes.tflite import LiteNetwork
from drpai_qat.source.tflite_file import FED, LiteFile, LiteOperator

FIXED_POINT = Fineness(0.05, 2.0)
"""What fixed-point kernels do not tell apart, see docs/tflite.md."""

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_CLIPS = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}
_OF_SHAPES = ("SHAPE", "RANK")
_ACTIVATIONS = ("float32", "float16", "int8", "uint8", "int16")


class LiteSide:
    """A file in LiteRT; see drpai_qat.compare.structure.Side."""

    fineness = FIXED_POINT
    uncut = ""

    def __init__(self, name: str, file: LiteFile) -> None:
        """Load a file.

        Raises: DeploymentError: LiteRT can't load it.
        """
        self.name, self.kind, self._file = name, "TFLite", file
        self._network = LiteNetwork(file.content)
        self._called = {file.tensors[index].name: name for name, index in file.inputs.items()}
        self._index = {tensor.name: index for index, tensor in enumerate(file.tensors)}
        self.structure = _structure(file)
        self.inputs, self.outputs = self._network.inputs, self._network.outputs

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """See Side."""
        return self._network.run(feeds)

    def exposed(self, names: Sequence[str]) -> Run:
        """See Side."""
        return self.cut((), names)

    def cut(self, fed: Sequence[str], wanted: Sequence[str]) -> Run:
        """See Side."""
        ends = [name for name in wanted if name not in self._called]
        network = LiteNetwork(self.cut_file(fed, ends))

        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            given = {}
            for info in network.inputs:
                plain = info.name.removesuffix(FED)
                given[info.name] = feeds[self._called.get(info.name, plain)]
            found = {name: value for name, value in network.run(given).items() if name in ends}
            return {name: found[name] if name in found else self._input(feeds, name) for name in wanted}

        return run

    def _input(self, feeds: Feeds, name: str) -> NDArray[Any]:
        """A network input as the file has it: on its grid."""
        value = np.asarray(feeds[self._called[name]])
        grid = self.structure.tensors[name].grid
        return value if grid is None or value.dtype.kind != "f" else grid.dequantize(grid.quantize(value))

    def cut_file(self, fed: Sequence[str], wanted: Sequence[str]) -> bytes:
        """The file that computes some tensors from others."""
        return self._file.cut([self._index[name] for name in fed], [self._index[name] for name in wanted])


def _structure(file: LiteFile) -> Structure:
    tensors: dict[str, Tensor] = {}
    for index in file.inputs.values():
        one = file.tensors[index]
        tensors[one.name] = Tensor(one.name, "", f"input {one.name}", (), one.shape, one.grid)
    layers: dict[str, Layer] = {}
    points: list[str] = []
    ends = set(file.outputs.values())
    for number, operator in enumerate(file.operators):
        inputs = [file.tensors[i] for i in operator.inputs if i >= 0]
        parents = tuple(dict.fromkeys(one.name for one in inputs if one.name in tensors))
        for index in operator.outputs:
            made = file.tensors[index]
            if not parents or operator.kind in _OF_SHAPES:
                continue  # of constants that are widened from float16, too
            grid = tensors[parents[0]].grid if operator.kind == "DEQUANTIZE" else made.grid
            tensors[made.name] = Tensor(made.name, operator.kind, f"operator {number}", parents, made.shape, grid)
            if made.dtype not in _ACTIVATIONS:
                continue  # positions in tables
            if kind_of(operator.kind) != MOVE or index in ends or operator.kind == "QUANTIZE":
                points.append(made.name)
        layer = _layer(file, number, operator)
        if layer is not None:
            layers[layer.output] = layer
    return Structure(tensors, tuple(points), layers, len(file.operators), _limits(file))


def _limits(file: LiteFile) -> dict[str, tuple[float, float]]:
    """What every reader of a tensor clips it to."""
    found: dict[str, list[tuple[float, float] | None]] = {}
    for operator in file.operators:
        for index in operator.inputs:
            if index >= 0 and file.tensors[index].constant is None:
                found.setdefault(file.tensors[index].name, []).append(_clips(file, operator, index))
    ends = {file.tensors[index].name for index in file.outputs.values()}
    limits = {}
    for name, bounds in found.items():
        known = [one for one in bounds if one is not None]
        if len(known) == len(bounds) and name not in ends:
            limits[name] = (min(low for low, _ in known), max(high for _, high in known))
    return limits


def _clips(file: LiteFile, operator: LiteOperator, index: int) -> tuple[float, float] | None:
    """The reals that an operator ends its operand at; None if it does something else."""
    if operator.kind in _CLIPS:
        return _CLIPS[operator.kind]
    if operator.kind not in ("MINIMUM", "MAXIMUM"):
        return None
    others = [file.tensors[i] for i in operator.inputs if i != index]
    bound = others[0] if others else None
    if bound is None or bound.constant is None or bound.constant.size != 1:
        return None
    value = bound.constant if bound.grid is None else bound.grid.dequantize(bound.constant)
    real = float(value.item())
    return (-math.inf, real) if operator.kind == "MINIMUM" else (real, math.inf)


def _constant(file: LiteFile, index: int) -> NDArray[Any] | None:
    """A constant, also one that is stored as float16 and widened."""
    if index < 0:
        return None
    if file.tensors[index].constant is not None:
        return file.tensors[index].constant
    for operator in file.operators:
        if operator.kind == "DEQUANTIZE" and index in operator.outputs:
            stored = file.tensors[operator.inputs[0]].constant
            return None if stored is None else stored.astype(np.float32)
    return None


def _layer(file: LiteFile, number: int, operator: LiteOperator) -> Layer | None:
    if operator.kind not in _LAYERS or kind_of(operator.kind) != PRODUCT:
        return None
    at = 1
    values = _constant(file, operator.inputs[at]) if len(operator.inputs) > at else None
    if values is None or values.ndim < 2:
        return None
    grid = file.tensors[operator.inputs[at]].grid
    if operator.kind == "DEPTHWISE_CONV_2D":  # (1, h, w, channels)
        values = np.moveaxis(values[0], -1, 0)
    elif values.ndim == 4:  # (outputs, h, w, inputs)
        values = np.moveaxis(values, -1, 1)
    place = 3 if operator.kind == "TRANSPOSE_CONV" else 2
    bias = stored = None
    if len(operator.inputs) > place and (found := _constant(file, operator.inputs[place])) is not None:
        scale = file.tensors[operator.inputs[place]].grid
        bias = np.asarray(found, np.float64) * (1.0 if scale is None else scale.scale.astype(np.float64))
        stored = None if scale is None else np.asarray(found, np.int64)
    return Layer(
        f"operator {number}", operator.kind, file.tensors[operator.outputs[0]].name, values.reshape(len(values), -1),
        None if grid is None else grid.scale.reshape(-1),
        None if grid is None else np.asarray(grid.zero_point, np.int64).reshape(-1),
        bias, stored,
    )  # fmt: skip
