"""What is told of one file, and as JSON; `terminal.py` prints it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

import preprocess
from drpai_qat.core.errors import DrpaiQatError, LoweringError, ModelError, NoFakeQuantError, QuantizationError
from drpai_qat.core.memory_limit import MemoryLimit
from drpai_qat.core.text import one_line
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.foresight import ForeseenLayer, by_importer, foresee_layers, integer_share, unsupported
from drpai_qat.graph.network import find_storage, read_network
from drpai_qat.inspection.doubts import Doubt, doubts_of_ranges, doubts_of_scales
from drpai_qat.inspection.origin import Origin, find_origin
from drpai_qat.inspection.quantized import (
    Kind,
    Ranges,
    kinds_of_activations,
    kinds_of_weights,
    ranges_of_inputs,
)
from drpai_qat.runtimes.blame import naming
from drpai_qat.source.ending import end_at
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.loading import load
from drpai_qat.source.model_options import ModelOptions
from drpai_qat.source.static_shapes import missing_shapes, specialize
from drpai_qat.source.structure import network_inputs

_ACTIVATION = "uint8"  # both 8-bit types are two labels of one grid: the answers are the same
_IMAGE_RANK = 4
_TENSOR_TYPES = onnx.TensorProto.DataType


@dataclass(frozen=True)
class Tensor:
    """A network input or output as the file declares it; dimensions without a size by their name, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Network:
    """What the canonical network is, and what will become of it.

    Attributes:
        qat_type: whose passes fold it.
        dynamic: activations are quantized while the source runs: ranges have to come from data.
        weights, activations: quantized tensors, by kind.
        ranges: of what layers read.
        layers: convolutions and matrix products.
        imported: operators without a kernel of ours, with their numbers.
        unsupported: nodes that end a compilation: name, operator, why.
        doubts: suspicious ranges.
        warnings: as a compilation gives them.
    """

    qat_type: str
    dynamic: bool
    weights: tuple[Kind, ...]
    activations: tuple[Kind, ...]
    ranges: Ranges
    layers: tuple[ForeseenLayer, ...]
    imported: dict[str, int]
    unsupported: tuple[tuple[str, str, str], ...]
    doubts: tuple[Doubt, ...]
    warnings: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a run."""
        return sum(one.node.macs for one in self.layers)

    @property
    def shares(self) -> tuple[float, float]:
        """See `integer_share`."""
        return integer_share(self.layers)


@dataclass(frozen=True)
class Inspection:
    """One file.

    Attributes:
        path: as it was given; size: in bytes.
        opset, ir_version: of the file.
        origin: who made it.
        inputs, outputs: as declared.
        shapes: what -s has to give, with example sizes; assumed for all that follows.
        scales: suspicious scales, in the source file.
        network: None where the file is refused, or holds no fake-quant.
        quantized: it holds fake-quant.
        refused: why a compilation refuses it; empty where it does not.
        next: the command to run next; empty where it is refused.
    """

    path: Path
    size: int
    opset: int
    ir_version: int
    origin: Origin
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    shapes: tuple[InputShape, ...]
    scales: tuple[Doubt, ...]
    network: Network | None
    quantized: bool
    refused: str
    next: str

    def to_json(self) -> dict[str, Any]:
        """What --json prints."""
        network = self.network
        return {
            "model": self.path.name,
            "bytes": self.size,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "origin": asdict(self.origin),
            "inputs": [asdict(one) for one in self.inputs],
            "outputs": [asdict(one) for one in self.outputs],
            "shapes_to_give": [str(one) for one in self.shapes],
            "quantized": self.quantized,
            "suspicious_ranges": [asdict(one) for one in (*self.scales, *(network.doubts if network else ()))],
            "network": None if network is None else _network_to_json(network),
            "refused": self.refused or None,
            "next": self.next or None,
        }


def _network_to_json(network: Network) -> dict[str, Any]:
    least, most = network.shares
    return {
        "qat_type": network.qat_type,
        "dynamic": network.dynamic,
        "weights": [asdict(one) for one in network.weights],
        "activations": [asdict(one) for one in network.activations],
        "layer_inputs": asdict(network.ranges),
        "macs": network.macs,
        "int8_mac_fraction": most,
        "int8_mac_fraction_without_parts": least,
        "layers": [{**vars(one.node), "by_parts": one.by_parts} for one in network.layers],
        "imported_operators": network.imported,
        "unsupported": [{"node": node, "op": op, "reason": why} for node, op, why in network.unsupported],
        "warnings": list(network.warnings),
    }


def inspect(options: ModelOptions) -> Inspection:
    """Say what a file is, without compiling it.

    Raises: DrpaiQatError: the file can't be read, or an option does not fit it. What a compilation refuses in a
        file that can be read is told in `refused`.
    """
    path = Path(options.model)
    source = load(path)
    shapes = () if options.input_shape else missing_shapes(source.model)
    static = specialize(path.name, source.model, (*options.input_shapes, *shapes))
    static = end_at(path.name, static, options.output_names)
    network, quantized, refused = None, True, ""
    try:
        with naming(path, static):
            network = _examined(static, options.memory)
            if network.unsupported:
                node, op, why = network.unsupported[0]
                raise LoweringError(f"node {node!r} ({op}): {why}")
    except NoFakeQuantError:
        quantized = False
    except (ModelError, QuantizationError, LoweringError) as error:
        refused = _why(error, shapes)
    inputs = _tensors(network_inputs(source.model.graph))
    takes_images = len(inputs) == 1 and len(inputs[0].shape) == _IMAGE_RANK
    return Inspection(
        path=path,
        size=path.stat().st_size,
        opset=next((one.version for one in source.model.opset_import if one.domain in ("", "ai.onnx")), 0),
        ir_version=source.model.ir_version,
        origin=find_origin(source.model),
        inputs=inputs,
        outputs=_tensors(source.model.graph.output),
        shapes=shapes,
        scales=doubts_of_scales(source.model),
        network=network,
        quantized=quantized,
        refused=refused,
        next="" if refused else _next(options, shapes, network, takes_images),
    )


def _why(error: DrpaiQatError, shapes: tuple[InputShape, ...]) -> str:
    told = one_line(error, 1000)
    if not shapes:
        return told
    return f"{told} (with the example sizes {' '.join(_flags(shapes))}: give the real ones)"


def _examined(static: onnx.ModelProto, memory: MemoryLimit) -> Network:
    folded = preprocess.preprocess(static, memory=memory, has_data=True)
    plain = read_graph(folded.model)
    graph = read_network(folded.model)
    storage = find_storage(graph, _ACTIVATION)
    imported: dict[str, int] = {}
    for node in by_importer(graph):
        imported[node.op] = imported.get(node.op, 0) + 1
    return Network(
        qat_type=folded.qat_type,
        dynamic=folded.dynamic,
        weights=kinds_of_weights(graph),
        activations=kinds_of_activations(plain, storage),
        ranges=ranges_of_inputs(graph, storage),
        layers=foresee_layers(graph, storage),
        imported=imported,
        unsupported=tuple((node.name, node.op, why) for node, why in unsupported(graph)),
        doubts=doubts_of_ranges(plain),
        warnings=tuple(note.reason for note in folded.log if note.action == "warning"),
    )


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            value.name,
            _TENSOR_TYPES.Name(value.type.tensor_type.elem_type).lower(),
            tuple(
                dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    )


def _flags(shapes: tuple[InputShape, ...]) -> list[str]:
    return [f"-s {shlex.quote(str(shape))}" for shape in shapes]


def _next(options: ModelOptions, shapes: tuple[InputShape, ...], network: Network | None, takes_images: bool) -> str:
    words = ["drpai-qat compile", shlex.quote(str(options.model))]
    trained = network is not None and not network.dynamic
    words += [f"-a -m {network.qat_type}"] if network is not None and trained else []
    words += _flags(options.input_shapes or shapes)
    if options.output_names:
        words.append(f"--outputs {shlex.quote(','.join(options.output_names))}")
    if not trained:
        words.append("--images DIR" if takes_images else "--calibration FILE.npz")
    return " ".join(words)
