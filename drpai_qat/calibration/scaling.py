"""Channels of tensors scaled, and the layers around them, so that the network computes the same.

    y = W2 f(W1 x + b1) + b2  =  (W2 / s) f(s W1 x + s b1) + b2     f(s z) = s f(z) for s > 0: ReLU, PReLU, pooling

for one s > 0 per channel of f's result. Tensors that a sum joins share one s: a group is all tensors that have to be
scaled together. Where it begins with a layer or a layer normalization, its weights and bias take the scale; behind any
other function of one element (ReLU6, SiLU, Hardswish) a Mul does, which runs in the registers of the kernel in front.
It ends with the layers that read it. A group that anything else reads, or that is an input or output, is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration.placement import ELEMENTWISE, LAYERS
from drpai_qat.graph.scaled_channels import SCALED, Along, ScaledChannels
from preprocess.recover_weights import exact_grid
from preprocess.surgery import Names, channel_axis, is_graph_output, optional_input, producer, readers

Scale = NDArray[np.float32]
"""One positive number per channel."""

_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
_POOLING = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_MOST_TENSORS = 48


@dataclass(frozen=True)
class Group:
    """Tensors that share a scale.

    Attributes:
        axis: of the channels.
        channels: how many.
        tensors: by name.
        begins: layers and normalizations whose results are in the group; nodes here are by identity.
        multiplied: names of tensors behind which a Mul scales; who reads them reads its result.
        ends: layers that read tensors of the group, with the name of the tensor.
        sums: nodes that add a constant to a tensor of the group.
    """

    axis: int
    channels: int
    tensors: Mapping[str, gs.Tensor] = field(default_factory=dict)
    begins: Mapping[int, gs.Node] = field(default_factory=dict)
    multiplied: frozenset[str] = frozenset()
    ends: Mapping[int, tuple[gs.Node, str]] = field(default_factory=dict)
    sums: Mapping[int, gs.Node] = field(default_factory=dict)


def find_groups(graph: gs.Graph, *, multiplies: bool) -> list[Group]:
    """All groups of a float network that could be scaled, in its order.

    Args:
        multiplies: a Mul may be put behind functions that no scale passes through.
    """
    found: list[Group] = []
    seen: set[str] = set()
    growing = _Growing(graph, multiplies)
    for node in graph.nodes:
        axis = growing.in_axis(node)
        if axis is None or node.inputs[0].name in seen or isinstance(node.inputs[0], gs.Constant):
            continue
        tensor = node.inputs[0]
        group = growing.with_tensor(Group(axis, int(tensor.shape[axis])), tensor)
        seen.add(str(tensor.name))
        if group is not None and not _scaled_twice(group):
            seen.update(group.tensors)
            found.append(group)
    return found


class _Growing:
    def __init__(self, graph: gs.Graph, multiplies: bool) -> None:
        self._graph, self._multiplies = graph, multiplies
        self._by_hand: dict[int, bool] = {}

    def in_axis(self, node: gs.Node) -> int | None:
        """Axis of the channels in what a layer of trained weights reads; None: no such layer, or it can't be scaled."""
        return _channels_of(node, node.inputs[0]) if self._is_layer(node) and not node.attrs.get("transA", 0) else None

    def _out_axis(self, node: gs.Node) -> int | None:
        """Axis of the channels in what such a layer computes, or a normalization over channels."""
        if node.op == "LayerNormalization":
            last = len(node.outputs[0].shape) - 1
            whole = node.attrs.get("axis", -1) in (-1, last) and len(node.outputs) == 1
            return last if whole and all(isinstance(one, gs.Constant) for one in node.inputs[1:]) else None
        return _channels_of(node, node.outputs[0]) if self._is_layer(node) else None

    def _is_layer(self, node: gs.Node) -> bool:
        """A layer of float weights and bias that training found; those written by hand are integers, and stay so."""
        if node.op not in LAYERS or len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
            return False
        weights, bias = node.inputs[1], optional_input(node, 2)
        if weights.dtype != np.float32 or not np.isfinite(weights.values).all():
            return False
        if id(weights) not in self._by_hand:
            self._by_hand[id(weights)] = exact_grid(weights, channel_axis(node)) is not None
        return not self._by_hand[id(weights)] and (bias is None or isinstance(bias, gs.Constant))

    def with_tensor(self, group: Group, tensor: gs.Tensor) -> Group | None:
        """The group with this tensor and all that has to be scaled with it; None: it can't be scaled."""
        name = str(tensor.name)
        if name in group.tensors:
            return group
        shape = tensor.shape
        if (
            isinstance(tensor, gs.Constant) or tensor.dtype != np.float32 or is_graph_output(self._graph, tensor)
            or not isinstance(shape, (list, tuple)) or len(shape) <= group.axis
            or shape[group.axis] != group.channels or 0 in shape or len(group.tensors) >= _MOST_TENSORS
        ):  # fmt: skip
            return None
        joined: Group | None = replace(group, tensors={**group.tensors, name: tensor})
        for reader in readers(tensor):
            joined = None if joined is None else self._with_reader(joined, reader, tensor)
        return None if joined is None else self._with_maker(joined, tensor)

    def _with_reader(self, group: Group, node: gs.Node, tensor: gs.Tensor) -> Group | None:
        read = [at for at, one in enumerate(node.inputs) if one is tensor]
        if read == [0] and self.in_axis(node) == group.axis:
            return replace(group, ends={**group.ends, id(node): (node, str(tensor.name))})
        if _passes(node, group, tensor):
            return self.with_tensor(group, node.outputs[0])
        return None

    def _with_maker(self, group: Group, tensor: gs.Tensor) -> Group | None:
        """The group up to what the tensor is made of; or it begins here."""
        maker = producer(tensor)
        if maker is None:
            return None
        if self._out_axis(maker) == group.axis:
            return replace(group, begins={**group.begins, id(maker): maker})
        if _passes(maker, group, maker.inputs[0]):
            grown: Group | None = group
            for source in maker.inputs[: 2 if maker.op == "Add" else 1]:
                if grown is not None and isinstance(source, gs.Constant):
                    grown = replace(grown, sums={**grown.sums, id(maker): maker})
                elif grown is not None:
                    grown = self.with_tensor(grown, source)
            if grown is not None:
                return grown
        if self._multiplies and (maker.op in ELEMENTWISE or maker.op in LAYERS):
            return replace(group, multiplied=group.multiplied | {str(tensor.name)})
        return None


def _scaled_twice(group: Group) -> bool:
    """A Mul would scale the result of a node through which the scale of another tensor passes already."""
    makers = (producer(group.tensors[name]) for name in group.multiplied)
    return any(
        _passes(maker, group, one)
        for maker in makers if maker is not None
        for one in maker.inputs if str(one.name) in group.tensors
    )  # fmt: skip


def _passes(node: gs.Node, group: Group, tensor: gs.Tensor) -> bool:
    """Scaling this input of the node (all inputs, of a sum) scales its result."""
    if node.op == "Add":
        variables = [one for one in node.inputs if not isinstance(one, gs.Constant)]
        same = all(list(one.shape) == list(node.outputs[0].shape) for one in variables)
        return same and bool(variables) and len({id(one) for one in node.inputs}) == 2
    if node.inputs[0] is not tensor:
        return False
    if node.op in _HOMOGENEOUS:
        return len(node.inputs) == 1 or isinstance(node.inputs[1], gs.Constant)
    return node.op in _POOLING and group.axis == 1 and len(node.outputs) == 1


def _channels_of(layer: gs.Node, tensor: gs.Tensor) -> int | None:
    """Axis of the channels in a layer's input or output."""
    if layer.op == "ConvTranspose" and int(layer.attrs.get("group", 1)) != 1:
        return None
    if layer.op == "MatMul":
        return len(tensor.shape) - 1 if len(layer.inputs[1].shape) == 2 else None
    return 1 if len(layer.inputs[1].shape) >= 2 else None


def weights_read_scaled(node: gs.Node, scale: Scale) -> NDArray[np.float32]:
    """Weights of a layer for an input of which each channel is `scale` times as large."""
    weights: NDArray[np.float32] = node.inputs[1].values
    if node.op == "Conv":
        groups = int(node.attrs.get("group", 1))
        of_group = np.repeat(scale.reshape(groups, -1), len(weights) // groups, axis=0)
        return np.asarray(weights / of_group.reshape(*of_group.shape, *[1] * (weights.ndim - 2)), np.float32)
    axis = 1 if node.op == "Gemm" and node.attrs.get("transB", 0) else 0
    return np.asarray(weights / scale.reshape([-1 if at == axis else 1 for at in range(weights.ndim)]), np.float32)


def apply(graph: gs.Graph, scales: list[tuple[Group, Scale]]) -> ScaledChannels:
    """Scale the tensors of each group; names of what holds other values than before end in _scaled.

    Returns: the scale of each tensor, by its name now.
    """
    names = Names(graph)
    made: dict[str, Along] = {}
    for group, scale in scales:
        for node in group.begins.values():
            _scale_result(node, scale, names)
        for node, _ in group.ends.values():
            _put(node, 1, weights_read_scaled(node, scale), names)
        along = scale.reshape([-1 if at == group.axis else 1 for at in range(_rank(group))])
        for node in group.sums.values():
            at = next(at for at, one in enumerate(node.inputs) if isinstance(one, gs.Constant))
            _put(node, at, node.inputs[at].values * along, names)
        for name, tensor in group.tensors.items():
            if name in group.multiplied:
                made[_multiply(graph, tensor, along, names)] = along
            else:
                tensor.name = names(name + SCALED)
                made[tensor.name] = along
    graph.cleanup().toposort()
    return ScaledChannels(made)


def _rank(group: Group) -> int:
    return len(next(iter(group.tensors.values())).shape)


def _scale_result(node: gs.Node, scale: Scale, names: Names) -> None:
    if node.op == "LayerNormalization":
        for at in range(1, len(node.inputs)):
            _put(node, at, node.inputs[at].values * scale, names)
        return
    weights = node.inputs[1].values
    axis = channel_axis(node)
    _put(node, 1, weights * scale.reshape([-1 if at == axis else 1 for at in range(weights.ndim)]), names)
    if optional_input(node, 2) is not None:
        _put(node, 2, node.inputs[2].values * scale, names)


def _put(node: gs.Node, at: int, values: NDArray[np.float32], names: Names) -> None:
    """Give the node a constant of its own: another may read the old one."""
    node.inputs[at] = gs.Constant(names(f"{node.inputs[at].name}_scaled"), np.ascontiguousarray(values, np.float32))


def _multiply(graph: gs.Graph, tensor: gs.Tensor, along: Along, names: Names) -> str:
    scaled = gs.Variable(names(tensor.name + SCALED), tensor.dtype, list(tensor.shape))
    after = list(readers(tensor))
    for node in after:
        for at, one in enumerate(node.inputs):
            if one is tensor:
                node.inputs[at] = scaled
    factor = gs.Constant(names(f"{tensor.name}_scale_of_channels"), along)
    graph.nodes.append(gs.Node("Mul", names(f"{tensor.name}_scaling"), {}, [tensor, factor], [scaled]))
    return str(scaled.name)
