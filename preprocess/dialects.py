"""The ONNX dialects that are read: standard QDQ, and what means the same. Others are refused by name, with advice.

onnxruntime's own QuantizeLinear and DequantizeLinear (domain com.microsoft, written for 16-bit types before opset 21)
mean the same as the standard ones and are renamed. Translated are OpenVINO's FakeQuantize, which stripped NNCF models
still hold (fake_quantize.py), Quant of QONNX (qonnx.py), MQBench's and the Model Compression Toolkit's quantizers
(custom_quantizers.py), operators on integers (qoperators.py), those whose activations are quantized in the run
(dynamic.py), and float ones that onnxruntime's optimizer fused (fused_operators.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from drpai_qat.core.errors import ModelError
from preprocess.custom_quantizers import CUSTOM, MCT
from preprocess.dynamic import is_dynamic
from preprocess.fake_quantize import OF_TENSORFLOW
from preprocess.fused_operators import FUSED
from preprocess.leftovers import TENSORFLOW
from preprocess.passlog import PassLog
from preprocess.qonnx import DOMAINS as QONNX_DOMAINS
from preprocess.qonnx import QUANT
from preprocess.qoperators import QOPERATORS

STANDARD = ("", "ai.onnx")
_AS_QDQ = "export it as QDQ (QuantizeLinear/DequantizeLinear nodes)"
_KNOWN = {
    "qonnx": f"QONNX; {_AS_QDQ}: brevitas.export.export_onnx_qcdq",
    "onnx.brevitas": f"QONNX of Brevitas; {_AS_QDQ}: brevitas.export.export_onnx_qcdq",
    "finn": f"FINN; {_AS_QDQ} before FINN transforms it",
    "quark": f"a custom format of AMD Quark; {_AS_QDQ}: use the configuration's QDQ format without custom operators",
    "vai": f"a custom format of Vitis AI; {_AS_QDQ}",
    "trt": f"a TensorRT dialect; {_AS_QDQ} in INT8",
    "openvino": f"OpenVINO's; {_AS_QDQ}: nncf.strip(model) before the export",
    MCT: f"the Model Compression Toolkit's own; {_AS_QDQ}: quantization_format=FAKELY_QUANT",
    "aten": "a PyTorch operator that the exporter could not translate; export with a newer opset",
    "com.microsoft": "an operator of onnxruntime's optimizer; compile the file as it was before optimization, as QDQ",
}
_RENAMED = {
    "com.microsoft": {"QuantizeLinear", "DequantizeLinear", *QOPERATORS},
    "org.openvinotoolkit": {"FakeQuantize"},
    TENSORFLOW: OF_TENSORFLOW,
}
_TRANSLATED: dict[str, set[str] | frozenset[str]] = {
    "": set(QOPERATORS) | OF_TENSORFLOW,
    **_RENAMED,
    "com.microsoft": _RENAMED["com.microsoft"] | set(FUSED),
}
_TRANSLATED |= dict.fromkeys(QONNX_DOMAINS, QUANT)
_TRANSLATED |= CUSTOM


def refuse_dialects(model: onnx.ModelProto, opset: int) -> None:
    """Refuse files of standard opset `opset` that are not standard QDQ.

    Raises: ModelError: names the dialect and the first such node, with advice.
    """
    for node in all_nodes(model.graph):
        where = f"node {node.name or (node.output[0] if node.output else '?')} ({node.op_type})"
        if is_translated(node) or is_dynamic(node):
            continue
        if node.domain in STANDARD:
            _require_operator(node, where, opset, model.producer_name)
        else:
            raise ModelError(f"{where}: domain {node.domain} is {_describe(node.domain)}")


def _require_operator(node: onnx.NodeProto, where: str, opset: int, producer: str) -> None:
    """Refuse an operator that ONNX has not, or only from a later opset on."""
    if onnx.defs.has(node.op_type, opset):
        return
    if onnx.defs.has(node.op_type):
        since = min(one.since_version for one in onnx.defs.get_all_schemas_with_history() if one.name == node.op_type)
        if since > opset:
            raise ModelError(f"{where}: ONNX has it from opset {since} on, and the file is of {opset}: export it anew")
        return  # deprecated since: onnxruntime will say so if it matters
    if producer.lower() == "tf2onnx":
        raise ModelError(
            f"{where}: no such ONNX operator: tf2onnx left a TensorFlow one; "
            "export the model with drpai_qat.export.tensorflow"
        )
    raise ModelError(f"{where}: no such ONNX operator")


def is_translated(node: onnx.NodeProto) -> bool:
    """True if `node` is not standard QDQ itself, but is read as what it means."""
    return node.op_type in _TRANSLATED.get(_domain(node), ())


def rename_standard_nodes(model: onnx.ModelProto, log: PassLog) -> bool:
    """Move the nodes that are read as Q/DQ to the standard domain; true if there was one. Changes `model`."""
    count = 0
    for node in all_nodes(model.graph):
        if node.op_type in _RENAMED.get(node.domain, ()):
            node.domain = ""
            count += node.op_type not in QOPERATORS  # which are counted as they are translated
    if count:
        log.note("model", f"{count} nodes of other domains that mean the same as Q/DQ are read as such")
    domains = {*STANDARD, *(node.domain for node in all_nodes(model.graph) if is_dynamic(node))}
    kept = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return bool(count)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the subgraphs of its control flow."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)


def _domain(node: onnx.NodeProto) -> str:
    """The domain; the standard one has two spellings."""
    return "" if node.domain in STANDARD else str(node.domain)


def _describe(domain: str) -> str:
    for key, text in _KNOWN.items():
        if key in domain.lower():
            return text
    return f"not standard ONNX; {_AS_QDQ}"
