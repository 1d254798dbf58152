"""The whole way from a QAT model to the canonical QDQ graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from drpai_qat.core.memory_limit import MemoryLimit
from preprocess import float_models, pytorch, tensorflow
from preprocess.detection import detect_framework, has_fake_quant, require_fake_quant
from preprocess.opening import open_graph
from preprocess.passlog import Note, Pass, PassLog, run
from preprocess.validate import find_violations
from preprocess.warnings import warn_about_source

PIPELINES: Mapping[str, tuple[Pass, ...]] = MappingProxyType(
    {"pytorch": pytorch.PASSES, "tensorflow": tensorflow.PASSES}
)


@dataclass(frozen=True)
class Preprocessed:
    """A canonical QDQ model.

    Attributes:
        model: valid ONNX with the source's input and output names; the invariants are in validate.py.
        log: the nodes that were folded or skipped, with reasons, in order.
        qat_type: "pytorch" or "tensorflow": the pipeline that was used; "float": there was no fake-quant to fold.
        dynamic: activations were quantized while the network ran: calibration is to give them ranges.
    """

    model: onnx.ModelProto
    log: tuple[Note, ...]
    qat_type: str
    dynamic: bool = False

    @property
    def is_float(self) -> bool:
        """True if nothing in the source was quantized: the model is canonical but for its grids."""
        return self.qat_type == float_models.FLOAT


def preprocess(
    model: onnx.ModelProto,
    qat_type: str | None = None,
    memory: MemoryLimit | None = None,
    *,
    may_be_float: bool = False,
    has_data: bool = False,
) -> Preprocessed:
    """Fold the fake-quant of a QAT model into the canonical QDQ graph.

    Args:
        model: loaded ONNX model with static input shapes; not changed.
        qat_type: "pytorch" or "tensorflow"; None: detected from the file.
        memory: that the work on it may take; None: what this machine has.
        may_be_float: take a model without fake-quant too; its batch norms are folded, its tensors stay float32.
        has_data: take a model whose activations are quantized dynamically too; they become float32, to be calibrated.
    Raises:
        ModelError: the model is not QDQ, has no fake-quant (unless it may be float), or cannot be made static.
        QuantizationError: a scale or zero point is invalid; names node and tensor.
    """
    if qat_type is not None and qat_type not in PIPELINES:
        raise ModelError(f"unknown QAT type {qat_type}; choose one of {', '.join(PIPELINES)}")
    log = PassLog(memory=memory or MemoryLimit.of_machine(), has_data=has_data)
    log.running = "warnings"
    warn_about_source(model, log)
    graph = open_graph(model, log)
    found = detect_framework(model.producer_name, graph)
    chosen = found.qat_type if qat_type is None or found.certain else qat_type
    if qat_type is not None and chosen != qat_type:
        log.warn("model", f"looks like a {chosen} export ({found.reason}), not {qat_type}: compiled as {chosen}")
    passes = PIPELINES[chosen]
    if may_be_float:
        middle = passes.index(require_fake_quant)
        graph = run(passes[:middle], graph, log)
        chosen, passes = (
            (chosen, passes[middle:]) if has_fake_quant(graph) else (float_models.FLOAT, float_models.PASSES)
        )
    graph = run(passes, graph, log)
    canonical = gs.export_onnx(graph)
    log.running = "validate"
    for violation in find_violations(canonical):  # lowering computes it in float32: no reason to refuse the model
        log.note(violation.where, f"not canonical: {violation.what}")
    return Preprocessed(canonical, tuple(log.notes), chosen, bool(log.dynamic))
