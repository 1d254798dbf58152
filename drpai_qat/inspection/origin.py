"""Who made a file: exporter, framework, and the recipe that quantized it, each with the evidence for it.

Exporters sign their files. Recipes do not, but their modules and scopes give names to nodes and tensors, which
exporters keep. Tools that rename everything (simplifiers) take that evidence away: then the file is told by its form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx

from drpai_qat.core.text import one_line

PYTORCH, TENSORFLOW, UNKNOWN = "PyTorch", "TensorFlow", "unknown"


@dataclass(frozen=True)
class Origin:
    """Where a file seems to come from.

    Attributes:
        exporter: what wrote the file, with its version.
        framework: what the network was trained in.
        recipe: what put the quantization in; "" where nothing did.
        evidence: for the exporter, and for the recipe if there is one.
    """

    exporter: str
    framework: str
    recipe: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class _Sign:
    """What a recipe leaves in a file: a domain, one of some operators, or a part of names."""

    recipe: str
    framework: str = UNKNOWN
    domain: str = ""
    names: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    def evidence(self, model: onnx.ModelProto, names: list[str], ops: Counter[str]) -> str:
        """The evidence; "" without any."""
        if self.domain:
            found = [node.domain for node in model.graph.node if self.domain in node.domain.lower()]
            return f"{len(found)} nodes of domain {found[0]}" if found else ""
        if self.names:
            named = next((name for part in self.names for name in names if part in name), "")
            return f"names such as {one_line(named, _LONGEST_NAME)}" if named else ""
        return _counted(ops, self.ops)


_EXPORTERS = {
    "tf2onnx": ("tf2onnx", TENSORFLOW),
    "keras2onnx": ("keras2onnx", TENSORFLOW),
    "onnx.quantize": ("onnxruntime's quantization tool", UNKNOWN),
    "neural_compressor": ("Neural Compressor", UNKNOWN),
    "quark.onnx": ("AMD Quark's ONNX quantizer", UNKNOWN),
    "onnx.compose.merge_models": ("onnx.compose, which joined several files", UNKNOWN),
}

# The first that fits: those that wrap another's modules stand before it.
_SIGNS = (
    _Sign("QONNX (Quant nodes), as Brevitas and QKeras write it", domain="qonnx"),
    _Sign("QONNX of Brevitas", PYTORCH, domain="onnx.brevitas"),
    _Sign("Model Compression Toolkit, its own quantizers", domain="mct_quantizers"),
    _Sign("FINN", PYTORCH, domain="finn"),
    _Sign("OpenVINO's FakeQuantize, as NNCF writes it", domain="openvinotoolkit"),
    _Sign("NNCF", PYTORCH, names=("nncf",)),
    _Sign("Brevitas, exported as QDQ", PYTORCH, names=("export_handler",)),
    _Sign("AMD Quark", PYTORCH, names=("quark",)),
    _Sign("NVIDIA pytorch-quantization or AMD Quark", PYTORCH, names=("._input_quantizer", "/_input_quantizer")),
    _Sign("NVIDIA ModelOpt", PYTORCH, names=("input_quantizer",)),
    _Sign("NVIDIA ModelOpt, weights alone", PYTORCH, names=("weight_quantizer",)),
    _Sign("Model Compression Toolkit, fakely quantized", PYTORCH, names=("activation_holder_quantizer",)),
    _Sign("PyTorch QAT", PYTORCH, names=("weight_fake_quant", "activation_post_process")),
    _Sign("PyTorch 2 export quantization (PT2E)", PYTORCH, names=("quantize_per_tensor", "dequantize_per_channel")),
    _Sign("TensorFlow Model Optimization (tfmot)", TENSORFLOW, names=("AllValuesQuantize", "MovingAvgQuantize")),
    _Sign("TensorFlow's FakeQuantWithMinMaxVars", TENSORFLOW, names=("FakeQuantWithMinMax",)),
    _Sign(
        "dynamic quantization, as onnxruntime's quantize_dynamic writes it",
        ops=("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "ConvInteger", "MatMulInteger"),
    ),
    _Sign(
        "operators on integers (QOperator): quantized after training, or converted",
        ops=("QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd"),
    ),
)
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_LITE = ("serving_default_", "tfl.", "_prequant")
_LONGEST_NAME = 56


def find_origin(model: onnx.ModelProto) -> Origin:
    """Who made a file, as far as it tells."""
    names, ops = list(_names(model.graph)), Counter(node.op_type for node in model.graph.node)
    exporter, framework, signed = _exporter(model, names)
    recipe, by_recipe, told = _recipe(model, names, ops)
    evidence = (signed, *([told] if told else []))
    return Origin(exporter, framework if framework != UNKNOWN else by_recipe, recipe, evidence)


def _exporter(model: onnx.ModelProto, names: list[str]) -> tuple[str, str, str]:
    """Exporter, framework, and how both are known."""
    producer, version = model.producer_name, " ".join(model.producer_version.split()[:1])
    if not producer:
        return UNKNOWN, UNKNOWN, "the file names no producer"
    signed = f'producer_name "{producer}"'
    if producer.lower() != "pytorch":
        name, framework = _EXPORTERS.get(producer.lower(), (producer, UNKNOWN))
        return f"{name} {version}".rstrip(), framework, signed
    by_scope = sum(name.startswith("/") for name in names)
    by_graph = sum(name.startswith(("node_", "val_")) for name in names)
    kind, told = "", ""
    if model.functions or by_graph > by_scope:
        kind, told = ", dynamo exporter", f", {by_graph} names begin with node_ or val_"
    elif by_scope:
        kind, told = ", TorchScript exporter", f", {by_scope} names begin with a module's path"
    return f"PyTorch {version}".rstrip() + kind, PYTORCH, signed + told


def _recipe(model: onnx.ModelProto, names: list[str], ops: Counter[str]) -> tuple[str, str, str]:
    """The recipe, its framework, and the evidence."""
    signed = next((one.value for one in model.metadata_props if one.key == "producer"), "")
    if signed.lower().startswith("aimet"):
        return f"AIMET ({signed})", PYTORCH, f'metadata: producer is "{signed}"'
    for sign in _SIGNS:
        told = sign.evidence(model, names, ops)
        if told:
            kind = _mode(model) if sign.recipe == "PyTorch QAT" else _way(names) if sign.framework == TENSORFLOW else ""
            return sign.recipe + kind, sign.framework, told
    if not any(ops[op] for op in _QDQ):
        arithmetic = _counted(ops, ("Round", "Floor"))
        return ("fake-quant written as arithmetic, if there is any" if arithmetic else "", UNKNOWN, arithmetic)
    told = _counted(ops, _QDQ)
    producer = model.producer_name.lower()
    if producer == "onnx.quantize":
        return "onnxruntime's static quantization, as QDQ", UNKNOWN, told
    if producer == "tf2onnx" and _way(names):
        return "an int8 TFLite file, converted", TENSORFLOW, told
    stored = ops["DequantizeLinear"] > ops["QuantizeLinear"]
    if producer == "pytorch" and stored:
        return "PyTorch modules converted to integers", PYTORCH, f"{told}: weights are stored as integers"
    return "Q/DQ nodes of an unknown tool", UNKNOWN, told


def _mode(model: onnx.ModelProto) -> str:
    """FX keeps all observers in the network itself, numbered; in eager mode each module has its own."""
    numbered = any(tensor.name.startswith("activation_post_process_") for tensor in model.graph.initializer)
    return ", FX graph mode" if numbered else ", eager mode"


def _way(names: list[str]) -> str:
    """Files that went through TFLite have its names."""
    lite = any(name.startswith(_LITE[:2]) or _LITE[2] in name for name in names)
    return ", by way of an int8 TFLite file" if lite else ""


def _counted(ops: Counter[str], wanted: Iterable[str]) -> str:
    return " and ".join(f"{ops[op]} {op}" for op in wanted if ops[op])


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        yield tensor.name
    for node in graph.node:
        yield node.name
        yield from node.output
