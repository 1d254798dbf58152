"""Opens what a comparison is between: an ONNX file, an output folder, or a TFLite file."""

from __future__ import annotations

from pathlib import Path

import onnx

import preprocess
from drpai_qat.compare.lite_side import LiteSide
from drpai_qat.compare.onnx_side import OnnxSide
from drpai_qat.compare.structure import Side
from drpai_qat.core.errors import DeploymentError, ModelError, OptionError
from drpai_qat.core.shape_inference import inferred
from drpai_qat.deployment import manifest
from drpai_qat.deployment.folder import CANONICAL
from drpai_qat.runtimes import network
from drpai_qat.runtimes.blame import naming
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.loading import load
from drpai_qat.source.static_shapes import specialize
from drpai_qat.source.tflite_file import LiteFile, is_tflite

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
_FLOAT = "float ONNX"


def open_both(a: Path, b: Path, shapes: tuple[InputShape, ...] = ()) -> tuple[Side, Side]:
    """Open two files or folders; a float model's batch norms are in its weights if the other side has none.

    Raises: see open_side.
    """
    ours, theirs = open_side(a, shapes), open_side(b, shapes)
    if _has_norms(ours) and not _has_norms(theirs):
        return _without_norms(ours), theirs
    if _has_norms(theirs) and not _has_norms(ours):
        return ours, _without_norms(theirs)
    return ours, theirs


def open_side(path: Path, shapes: tuple[InputShape, ...] = ()) -> Side:
    """Open a file or folder.

    Args:
        shapes: sizes of what an ONNX file leaves open.
    Raises: DrpaiQatError: it can't be read or run; the message names it.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise OptionError(f"{path}: no such file or folder")
    if is_tflite(path):
        return LiteSide(path.name, LiteFile.read(path))
    return _onnx(path, shapes)


def _has_norms(side: Side) -> bool:
    return any(one.op == "BatchNormalization" for one in side.structure.tensors.values())


def _without_norms(side: Side) -> Side:
    """A float model as calibration has it first; any other side as it is."""
    if not isinstance(side, OnnxSide) or side.kind != _FLOAT:
        return side
    try:
        folded = preprocess.preprocess(side.model, may_be_float=True)
    except ModelError:
        return side
    return OnnxSide(side.name, _FLOAT, folded.model, run=side.run) if folded.is_float else side


def _folder(path: Path) -> Side:
    found = manifest.read_network(path)
    lite = found.target.get("file")
    deployed = network.load(path)
    if lite is not None:
        return LiteSide(f"{path.name}/{lite}", LiteFile.read(path / str(lite)))
    if not (path / CANONICAL).is_file():
        raise DeploymentError(f"{path / CANONICAL} is missing: copy the whole folder")
    canonical = load(path / CANONICAL).model
    uncut = f"compiled code runs in one piece: parameters and layers are those of {CANONICAL} beside it"
    return OnnxSide(path.name, "compiled network", canonical, run=deployed.run, uncut=uncut, outputs=found.outputs)


def _onnx(path: Path, shapes: tuple[InputShape, ...]) -> Side:
    loaded = load(path).model
    model = specialize(path.name, loaded, shapes)
    with naming(path):
        runnable = preprocess.reference_model(model)
        if not any(node.op_type in _QUANTIZERS for node in runnable.graph.node):
            return OnnxSide(path.name, _FLOAT, inferred(runnable))
        if _is_canonical(loaded):  # with the shapes in it
            return OnnxSide(path.name, "canonical QDQ", loaded)
        try:
            folded = preprocess.preprocess(model).model
        except ModelError:
            return OnnxSide(path.name, "QDQ ONNX, not folded", inferred(runnable))
        return OnnxSide(path.name, "QAT ONNX", folded, run=Reference(runnable, path.name).run)


def _is_canonical(model: onnx.ModelProto) -> bool:
    try:
        preprocess.validate(model)
    except ModelError:
        return False
    return True
