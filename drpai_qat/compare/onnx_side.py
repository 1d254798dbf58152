"""An ONNX model as a side of the comparison: canonical QDQ, or any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.helper
from numpy.typing import NDArray

from drpai_qat.check.certificate import AS_FLOAT32
from drpai_qat.compare.structure import PRODUCT, Feeds, Layer, Run, Structure, Tensor, kind_of
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Graph, Node, Weight, read_graph
from drpai_qat.graph.ranges import clip_limits
from drpai_qat.graph.scaled_channels import SCALED, Along, ScaledChannels
from drpai_qat.runtimes.onnxruntime import Reference

FED = "/fed"
"""Behind a cut tensor's name on its reading side."""

_QUANTIZERS = (FAKE_QUANT, QUANTIZE, DEQUANTIZE)
_AFFINE = ("BatchNormalization", "Mul", "Div")


class OnnxSide:
    """A model in onnxruntime; see drpai_qat.compare.structure.Side.

    Attributes:
        model: what is cut and evaluated: the canonical one of a QAT file.
        graph: the same, read.
    """

    fineness = AS_FLOAT32

    def __init__(
        self, name: str, kind: str, model: onnx.ModelProto, *, run: Run | None = None, uncut: str = "",
        outputs: tuple[TensorInfo, ...] | None = None,
    ) -> None:  # fmt: skip
        """Read a model.

        Args:
            model: static, with shapes inferred.
            run: what runs the network where that is not this model in onnxruntime.
            uncut: why the layers are not those of what runs.
            outputs: of `run`, with their grids.
        Raises: LoweringError: a shape is not static. ModelError: onnxruntime can't load it.
        """
        self.name, self.kind, self.uncut, self.model = name, kind, uncut, model
        self.graph = read_graph(model)
        self._factors = _factors(self.graph, ScaledChannels.read(model))
        self.structure, self._integers = _structure(self.graph, self._factors)
        self.inputs = tuple(self._info(one) for one in self.graph.inputs)
        self.outputs = outputs or tuple(self._info(one) for one in self.graph.outputs)
        self.run = run or Reference(model, name).run

    def _info(self, name: str) -> TensorInfo:
        grid = self.structure.tensors[name].grid if name in self.structure.tensors else None
        return TensorInfo(name, self.graph.shapes[name], self.graph.dtypes[name], grid)

    def integers_of(self, name: str) -> str:
        """The integer tensor of a quantized activation; the name itself of any other."""
        return self._integers.get(name, name)

    def exposed(self, names: Sequence[str]) -> Run:
        """See Side."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        self._add_outputs(model, names)
        return self._runner(Reference(model, self.name), names, ())

    def cut(self, fed: Sequence[str], wanted: Sequence[str]) -> Run:
        """See Side."""
        return self._runner(Reference(self.cut_model(fed, wanted), self.name), wanted, fed)

    def cut_model(self, fed: Sequence[str], wanted: Sequence[str]) -> onnx.ModelProto:
        """The model that computes some tensors from others: as integers where they have a grid."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        self._add_outputs(model, wanted)
        renamed = {self.integers_of(name): self.integers_of(name) + FED for name in fed}
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name in renamed:
                    node.input[index] = renamed[name]
        needed = {value.name for value in model.graph.output}
        kept = []
        for node in reversed(model.graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        del model.graph.node[:]
        model.graph.node.extend(reversed(kept))
        for name in fed:
            if self.integers_of(name) + FED in needed:
                model.graph.input.append(self._declared(name, self.integers_of(name) + FED))
        _keep(model.graph.input, needed)
        _keep(model.graph.initializer, needed)
        return model

    def feed(self, name: str, real: NDArray[Any]) -> NDArray[Any]:
        """A fed tensor as the cut model takes it."""
        grid = self.structure.tensors[name].grid
        if name in self._factors:
            real = np.asarray(real * self._factors[name], np.float32)
        return np.asarray(real, self.graph.dtypes[name]) if grid is None else grid.quantize(np.asarray(real))

    def _runner(self, session: Reference, wanted: Sequence[str], fed: Sequence[str]) -> Run:
        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            given = {}
            for name, value in feeds.items():
                target = self.integers_of(name) + FED if name in fed else name
                if target in session.inputs:
                    given[target] = self.feed(name, value) if name in fed else value
            found = session.run(given, [self.integers_of(name) for name in wanted])
            return {name: self._real(name, found[self.integers_of(name)]) for name in wanted}

        return run

    def _real(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        grid = self.structure.tensors[name].grid
        real = value if grid is None or name not in self._integers else grid.dequantize(value)
        return real / self._factors[name] if name in self._factors else real

    def _add_outputs(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        present = {value.name for value in model.graph.output}
        for name in names:
            if self.integers_of(name) not in present:
                model.graph.output.append(self._declared(name, self.integers_of(name)))
                present.add(self.integers_of(name))

    def _declared(self, name: str, called: str) -> onnx.ValueInfoProto:
        grid = self.structure.tensors[name].grid if name in self._integers else None
        dtype = np.dtype(self.graph.dtypes[name]) if grid is None else grid.dtype
        kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return onnx.helper.make_tensor_value_info(called, kind, self.graph.shapes[name])


def _keep(entries: Any, names: set[str]) -> None:
    kept = [one for one in entries if one.name in names]
    del entries[:]
    entries.extend(kept)


def _factors(graph: Graph, scaled: ScaledChannels) -> dict[str, Along]:
    """What each tensor is divided by to hold what the source's holds: those that were scaled, and roundings of them."""
    found = {
        name: along for name, along in scaled.factors.items()
        if name in graph.shapes and np.broadcast_shapes(along.shape, graph.shapes[name]) == tuple(graph.shapes[name])
    }  # fmt: skip
    for node in graph.nodes:
        if node.op == FAKE_QUANT and node.inputs[0] in found:
            found[node.output] = found[node.inputs[0]]
    return found


def _structure(graph: Graph, factors: Mapping[str, Along]) -> tuple[Structure, dict[str, str]]:
    """The graph's tensors and layers, and for each quantized one the name of its integers."""
    tensors = {name: Tensor(name, "", f"input {name}", (), graph.shapes[name], None) for name in graph.inputs}
    integers: dict[str, str] = {}
    layers: dict[str, Layer] = {}
    affine = set()
    quantized, computed, operators = [], [], 0
    makers = {name: node for node in graph.nodes for name in node.outputs}
    for node in graph.nodes:
        parents = tuple(dict.fromkeys(name for name in node.inputs if name in tensors))
        operators += node.op not in _QUANTIZERS
        if node.op == QUANTIZE or not parents:  # what reads constants alone is one
            continue
        op, made_by, rounds = node.op, node.name, ""
        if node.op == FAKE_QUANT:
            rounds = node.inputs[0].removesuffix(SCALED) if node.inputs[0] in factors else node.inputs[0]
            op, made_by = _behind(tensors, parents[0])
            integers[node.output] = node.source[0].output[0]
            quantized.append(node.output)
        elif kind_of(node.op) not in ("move",):
            computed.append(node.output)
        for name in filter(None, node.outputs):
            grid = _limited(graph, node, makers) if node.op in _QUANTIZERS else None
            tensors[name] = Tensor(name, op, made_by, parents, graph.shapes[name], grid, rounds)
        layer = _layer(graph, node, factors)
        if layer is not None:
            layers[node.output] = layer
        elif node.op in _AFFINE and len(parents) == 1:
            affine.add(node.output)
    ends = [name for name in graph.outputs if name in tensors and name not in quantized]
    points = [*quantized, *(name for name in ends if not _rounded(tensors, name))] if quantized else computed
    if not quantized:
        points += [name for name in ends if name not in computed]
    return Structure(tensors, tuple(points), layers, operators, _limits(graph), frozenset(affine)), integers


def _limits(graph: Graph) -> dict[str, tuple[float, float]]:
    """What every reader of a tensor clips it to."""
    found = {}
    for name, readers in graph.consumers().items():
        bounds = [clip_limits(graph, reader) for reader in readers]
        known = [one for one in bounds if one is not None]
        if len(known) == len(readers) and name not in graph.outputs:
            found[name] = (min(low for low, _ in known), max(high for _, high in known))
    return found


def _limited(graph: Graph, node: Node, makers: dict[str, Node]) -> QuantParams | None:
    """A quantizer's grid with what a Clip in front leaves of its range."""
    params, maker = node.params, makers.get(node.inputs[0])
    limits = None if params is None or maker is None else clip_limits(graph, maker)
    if params is None or limits is None or params.per_channel:
        return params
    with np.errstate(over="ignore"):
        steps = np.rint(np.asarray(limits, np.float64) / params.scale) + params.zero_point
    low, high = (int(step) for step in np.clip(steps, params.qmin, params.qmax))
    return replace(params, qmin=low, qmax=high) if low < high else params


def _behind(tensors: dict[str, Tensor], name: str) -> tuple[str, str]:
    """Operator and name of what a quantizer rounds: what stands before the ReLU and Clip in front of it."""
    tensor = tensors[name]
    while kind_of(tensor.op) == "follow" and len(tensor.parents) == 1:
        tensor = tensors[tensor.parents[0]]
    return tensor.op, tensor.node


def _rounded(tensors: dict[str, Tensor], name: str) -> bool:
    """A network output that is a quantized tensor in another shape."""
    tensor = tensors[name]
    while tensor.grid is None and kind_of(tensor.op) == "move" and len(tensor.parents) == 1:
        tensor = tensors[tensor.parents[0]]
    return tensor.grid is not None


def _layer(graph: Graph, node: Node, factors: Mapping[str, Along]) -> Layer | None:
    if kind_of(node.op) != PRODUCT or len(node.inputs) < 2:
        return None
    weight = graph.weight(node.inputs[1])
    if weight is None or len(weight.shape) < 2:
        return None
    values, axis = weight.values, 0
    if node.op in ("MatMul", "ConvTranspose") or (node.op == "Gemm" and not node.attributes.get("transB", 0)):
        if node.op == "MatMul" and values.ndim != 2:
            return None
        values, axis = values.swapaxes(0, 1), 1
    params = weight.params
    bias, stored = _bias(graph, node)
    found = Layer(
        node.name, node.op, node.output, values.reshape(values.shape[0], -1),
        None if params is None else _along(params, axis, params.scale, values.shape[0]),
        None if params is None else _along(params, axis, params.zero_point, values.shape[0]),
        bias, stored,
    )  # fmt: skip
    return _unscaled(found, node, factors)


def _unscaled(layer: Layer, node: Node, factors: Mapping[str, Along]) -> Layer:
    """The layer with the weights and the bias that it would have if no channels were scaled."""
    rows, columns = len(layer.weights), layer.weights.shape[1]
    if node.output in factors:
        by_row = factors[node.output].reshape(-1).astype(np.float64)
        scale = np.ones(1, np.float32) if layer.scale is None else layer.scale
        bias = None if layer.bias is None else layer.bias / by_row
        layer = replace(
            layer,
            scale=np.divide(np.broadcast_to(scale, rows), by_row, dtype=np.float32, casting="same_kind"),
            bias=bias,
        )
    if node.inputs[0] in factors:
        channels = factors[node.inputs[0]].reshape(int(node.attributes.get("group", 1)), -1)
        by_row_and_column = np.repeat(channels, rows // len(channels), axis=0)
        layer = replace(layer, columns=np.repeat(by_row_and_column, columns // channels.shape[1], axis=1))
    return layer


def _along(params: QuantParams, axis: int, values: NDArray[Any], rows: int) -> NDArray[Any]:
    """Per-channel values along the outputs; of another axis, none that belong to them: their mean stands in."""
    if params.axis is None or params.axis == axis:
        return np.asarray(values).reshape(-1)
    return np.full(rows, np.mean(values), np.asarray(values).dtype)


def _bias(graph: Graph, node: Node) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
    found: Weight | None = None
    if len(node.inputs) > 2 and node.inputs[2]:
        found = graph.weight(node.inputs[2])
    elif node.op == "MatMul":
        readers = graph.consumers().get(node.output, [])
        if len(readers) == 1 and readers[0].op == "Add":
            found = next((one for name in readers[0].inputs if (one := graph.weight(name)) is not None), None)
    if found is None:
        return None, None
    if found.params is None:
        return np.asarray(found.real, np.float64).reshape(-1), None
    stored = np.asarray(found.values, np.int64).reshape(-1)
    return found.params.scale.astype(np.float64) * stored, stored
