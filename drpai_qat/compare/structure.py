"""A network as the comparison reads it, whichever file it comes from: activation tensors, layers with weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.certificate import Fineness
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.tensor_info import TensorInfo

Feeds = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds], dict[str, NDArray[Any]]]

PRODUCT, MOVE, FOLLOW = "product", "move", "follow"
"""Kinds of operators: with weights, moving elements, elementwise behind another (ReLU, Clip)."""

_KINDS = {
    **dict.fromkeys(("conv", "conv2d", "depthwiseconv2d", "convtranspose", "transposeconv", "gemm"), PRODUCT),
    **dict.fromkeys(("matmul", "fullyconnected", "batchmatmul"), PRODUCT),
    **dict.fromkeys(("averagepool", "averagepool2d", "globalaveragepool", "reducemean", "mean"), "mean"),
    **dict.fromkeys(("maxpool", "maxpool2d", "globalmaxpool", "reducemax"), "max"),
    **dict.fromkeys(("concat", "concatenation"), "concat"),
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze", "transpose", "identity", "expanddims"), MOVE),
    **dict.fromkeys(("pad", "padv2", "mirrorpad", "slice", "stridedslice", "gather", "split", "quantize"), MOVE),
    **dict.fromkeys(("quantizelinear", "dequantizelinear", "dequantize", "fakequant", "cast"), MOVE),
    **dict.fromkeys(("relu", "relu6", "clip", "batchnormalization", "relu0to1", "relun1to1"), FOLLOW),
    **dict.fromkeys(("resize", "resizebilinear", "resizenearestneighbor", "upsample"), "resize"),
    **dict.fromkeys(("sigmoid", "logistic"), "sigmoid"),
}


def kind_of(operator: str) -> str:
    """What ONNX and TFLite call by different names, under one."""
    plain = operator.lower().replace("_", "")
    return _KINDS.get(plain, plain)


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator with constant weights.

    Attributes:
        node: its name, or that of its result.
        op: as the file calls it.
        output: the tensor it computes.
        weights: integers where they have a grid, else reals; (outputs, columns), columns in the order input channel,
            then spatial axes.
        scale: real = scale * (weights - zero_point), one for each output or one for all; None for reals.
        zero_point: of the weights' grid.
        bias: reals, one for each output; None without one.
        bias_integers: as stored; None where the bias is stored in reals.
        columns: what weights are multiplied with besides, where they read scaled channels; (outputs, columns).
    """

    node: str
    op: str
    output: str
    weights: NDArray[Any]
    scale: NDArray[np.float32] | None
    zero_point: NDArray[np.int64] | None = None
    bias: NDArray[np.float64] | None = None
    bias_integers: NDArray[np.int64] | None = None
    columns: NDArray[np.float32] | None = None

    @property
    def real(self) -> NDArray[np.float64]:
        """The weights' reals."""
        if self.scale is None:
            return np.asarray(self.weights, np.float64) * (1 if self.columns is None else self.columns)
        point = np.zeros(1) if self.zero_point is None else self.zero_point
        return np.asarray((self.weights.astype(np.float64) - point.reshape(-1, 1)) * self.steps)

    @property
    def steps(self) -> NDArray[np.float64]:
        """What a step of the weights is worth, to multiply them with; 0 for reals."""
        scale = np.zeros(1) if self.scale is None else self.scale.astype(np.float64)
        return scale.reshape(-1, 1) * (1 if self.columns is None else self.columns)


@dataclass(frozen=True, eq=False)
class Tensor:
    """An activation.

    Attributes:
        name: in its file; of a quantized one in ONNX, that of its reals.
        op: of the operator that computes it; "" for network inputs.
        node: the operator's name.
        parents: activations that it is computed from.
        grid: what its integers mean; None for reals.
        rounds: name of the reals that it is a rounding of, before channels were scaled; "" if it is none.
    """

    name: str
    op: str
    node: str
    parents: tuple[str, ...]
    shape: tuple[int, ...]
    grid: QuantParams | None
    rounds: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Structure:
    """What a network consists of.

    Attributes:
        tensors: activations by name, in order of computation; network inputs first.
        points: those that are compared: quantized ones and network outputs; of a float network, what it computes.
        layers: by the tensor that they compute.
        operators: number of operators, quantizers not counted.
        limits: lowest and highest real that matters of tensors whose readers all clip them.
        affine: tensors made by batch norms and other factors per channel that are not folded.
    """

    tensors: Mapping[str, Tensor]
    points: tuple[str, ...]
    layers: Mapping[str, Layer]
    operators: int
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    affine: frozenset[str] = field(default_factory=frozenset)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(one.weights.size + (0 if one.bias is None else one.bias.size) for one in self.layers.values())


class Side(Protocol):
    """One of the two networks. All activations are reals (float32), whatever the file holds.

    Attributes:
        name: of the file or folder.
        kind: what it is, in words.
        uncut: why its layers are not its own, in words; "" if they are.
        fineness: of its arithmetic.
        inputs, outputs: in the file's order.
    """

    name: str
    kind: str
    uncut: str
    fineness: Fineness
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    structure: Structure

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Outputs of the network."""
        ...

    def exposed(self, names: Sequence[str]) -> Run:
        """What runs the whole network and returns these tensors."""
        ...

    def cut(self, fed: Sequence[str], wanted: Sequence[str]) -> Run:
        """What computes tensors from network inputs and from others that are fed, by name."""
        ...


def frontier(structure: Structure, name: str, ends: Mapping[str, object] | frozenset[str]) -> frozenset[str]:
    """The nearest tensors upstream that are in `ends`."""
    found: set[str] = set()
    seen: set[str] = set()
    left = list(structure.tensors[name].parents)
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in ends:
            found.add(one)
        else:
            left.extend(structure.tensors[one].parents)
    return frozenset(found)


def region(structure: Structure, name: str, ends: Mapping[str, object] | frozenset[str]) -> list[str]:
    """The tensors computed between `ends` and a tensor, itself included, in order of computation."""
    inside = {name}
    left = list(structure.tensors[name].parents)
    while left:
        one = left.pop()
        if one not in ends and one not in inside:
            inside.add(one)
            left.extend(structure.tensors[one].parents)
    return [one for one in structure.tensors if one in inside]
