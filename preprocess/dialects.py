"""The ONNX dialects that are read: standard QDQ. Others are refused by name, with advice.

onnxruntime's own QuantizeLinear and DequantizeLinear (domain com.microsoft, written for 16-bit types before opset 21)
mean the same as the standard ones and are renamed. OpenVINO's FakeQuantize, which stripped NNCF models still hold, is
translated (fake_quantize.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from drpai_qat.core.errors import ModelError
from preprocess.passlog import PassLog

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
    "mct_quantizers": f"the Model Compression Toolkit's own; {_AS_QDQ}: quantization_format=FAKELY_QUANT",
    "aten": "a PyTorch operator that the exporter could not translate; export with a newer opset",
    "com.microsoft": "an operator of onnxruntime's optimizer; compile the file as it was before optimization, as QDQ",
}
_NOT_QDQ = {
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
}  # fmt: skip
_TRANSLATED = {
    "com.microsoft": ("QuantizeLinear", "DequantizeLinear"),
    "org.openvinotoolkit": ("FakeQuantize",),
}


def refuse_dialects(model: onnx.ModelProto) -> None:
    """Refuse files that are not standard QDQ.

    Raises: ModelError: names the dialect and the first such node, with advice.
    """
    for node in all_nodes(model.graph):
        where = f"node {node.name or (node.output[0] if node.output else '?')} ({node.op_type})"
        if node.domain in STANDARD:
            if node.op_type in _NOT_QDQ:
                raise ModelError(f"{where}: operator-oriented or dynamic quantization, not QDQ; {_AS_QDQ}")
            if not onnx.defs.has(node.op_type):
                raise ModelError(f"{where}: no such ONNX operator")
        elif node.op_type not in _TRANSLATED.get(node.domain, ()):
            raise ModelError(f"{where}: domain {node.domain} is {_describe(node.domain)}")


def rename_standard_nodes(model: onnx.ModelProto, log: PassLog) -> bool:
    """Move the nodes that are read as Q/DQ to the standard domain; true if there was one. Changes `model`."""
    count = 0
    for node in all_nodes(model.graph):
        if node.op_type in _TRANSLATED.get(node.domain, ()):
            node.domain = ""
            count += 1
    if count:
        log.note("model", f"{count} nodes of other domains that mean the same as Q/DQ are read as such")
    kept = [opset for opset in model.opset_import if opset.domain in STANDARD]
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


def _describe(domain: str) -> str:
    for key, text in _KNOWN.items():
        if key in domain.lower():
            return text
    return f"not standard ONNX; {_AS_QDQ}"
