"""Whatever runs a model, opened by its path: output folders, TFLite and ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

import preprocess
from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.data.samples import input_infos, trained_range
from drpai_qat.deployment import manifest
from drpai_qat.runtimes import network as deployed
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.runtimes.tflite import LiteNetwork
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.loading import load
from drpai_qat.source.static_shapes import specialize
from drpai_qat.source.structure import network_inputs

QUANTIZED, FLOAT = "quantized", "float"


@dataclass(frozen=True, eq=False)
class OpenedNetwork:
    """A network that runs here.

    Attributes:
        name: of its file or folder.
        kind: QUANTIZED, or FLOAT where its arithmetic is float32, fake-quantized or not.
        runs_in: what computes it, for people.
        inputs: with shape, type and grid.
        outputs: names, in order.
        run: outputs by name.
        preprocessing: what deploy.json records; None: nothing.
        reach: reals that its first input was trained on; None: not known.
    """

    name: str
    kind: str
    runs_in: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[str, ...]
    run: Callable[[Mapping[str, NDArray]], dict[str, NDArray]]
    preprocessing: Mapping[str, Any] | None
    reach: tuple[float, float] | None


def open_network(path: Path, option: str, like: Sequence[TensorInfo] = (), threads: int = 0) -> OpenedNetwork:
    """Open a network by its path.

    Args:
        option: that names it, for messages.
        like: inputs of another network of the same kind: an ONNX file may leave sizes open.
        threads: for ONNX and TFLite files; 0: what they take by themselves.
    Raises: OptionError: nothing there runs. DrpaiQatError: the file is damaged, or not for this machine.
    """
    if path.is_dir():
        return _folder(path, threads)
    if not path.exists():
        raise OptionError(f"{option} {path}: no such file or folder")
    if path.suffix == ".tflite":
        return _lite(path.name, LiteNetwork(path, threads=threads or 1), None)
    if path.suffix == ".onnx":
        return _onnx(path, like, threads)
    raise OptionError(f"{option} {path}: give an output folder of the compiler, a .tflite or an .onnx file")


def _folder(path: Path, threads: int) -> OpenedNetwork:
    found = manifest.read_network(path)
    name = path.name or str(path)
    lite = found.target.get("file")
    if lite is not None:
        deployed.load(path)  # it holds the file against deploy.json
        return _lite(name, LiteNetwork(path / str(lite), threads=threads or 1), found.preprocessing)
    network = deployed.load(path)
    outputs = tuple(info.name for info in found.outputs)
    reach = _reach(found.inputs[0])
    return OpenedNetwork(name, QUANTIZED, "TVM", found.inputs, outputs, network.run, found.preprocessing, reach)


def _lite(name: str, network: LiteNetwork, preprocessing: Mapping[str, Any] | None) -> OpenedNetwork:
    infos = (*network.inputs, *network.outputs)
    quantized = any(info.quantization is not None for info in infos) or any(
        grid is not None for grid in network.tensors().values()
    )
    outputs = tuple(info.name for info in network.outputs)
    return OpenedNetwork(
        name, QUANTIZED if quantized else FLOAT, "LiteRT", network.inputs, outputs, network.run, preprocessing,
        _reach(network.inputs[0]),
    )  # fmt: skip


def _onnx(path: Path, like: Sequence[TensorInfo], threads: int) -> OpenedNetwork:
    source = load(path)
    static = specialize(path.name, source.model, _open_sizes(source.model, like))
    model = preprocess.reference_model(static)
    reference = Reference(model, path.name, threads=threads)
    inputs = tuple(input_infos(model))
    reach = trained_range(inputs[0].name, model)
    return OpenedNetwork(
        path.name, FLOAT, "onnxruntime, optimisations off", inputs, tuple(reference.outputs), reference.run, None, reach
    )


def _open_sizes(model: onnx.ModelProto, like: Sequence[TensorInfo]) -> tuple[InputShape, ...]:
    """Sizes of another network's inputs for those that a model leaves open, where the others agree."""
    values = network_inputs(model.graph)
    if len(values) != len(like):
        return ()
    found = []
    for value, info in zip(values, like, strict=True):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        agrees = len(dims) == len(info.shape) and all(
            have in (0, want) for have, want in zip(dims, info.shape, strict=True)
        )
        if 0 in dims and agrees:
            found.append(InputShape(value.name, info.shape))
    return tuple(found)


def _reach(info: TensorInfo) -> tuple[float, float] | None:
    if info.quantization is None or info.quantization.per_channel:
        return None
    low, high = info.quantization.real_range()
    return float(low), float(high)
