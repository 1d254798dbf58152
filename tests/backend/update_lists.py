"""Write the lists of passing and excluded node tests anew: python -m tests.backend.update_lists (minutes).

Read the diff: a case that moves to excluded.txt is a bug, or needs a reason that a user would accept.
"""

from __future__ import annotations

import re
from collections import defaultdict

import onnx

from drpai_qat.lowering.registry import LOWERINGS
from tests.backend import cases

# Reasons that no error message gives.
KNOWN = {
    "test_bitshift_left_int32_shift_ge_width": "BitShift: TVM shifts by the low bits of the amount",
    "test_bitshift_left_int32_negative_shift": "BitShift: TVM shifts by the low bits of the amount",
    "test_mod_float_edge_cases_fmod_0_float16": "Mod: TVM has no infinities",
    "test_mod_float_edge_cases_fmod_0_float32": "Mod: TVM has no infinities",
    "test_mod_float_edge_cases_fmod_0_float64": "Mod: TVM has no infinities",
    "test_resize_downsample_scales_linear_align_corners": "Resize: as onnxruntime, not as onnx.reference",
    "test_training_dropout": "Dropout: training mode becomes inference, on purpose",
    "test_training_dropout_default": "Dropout: training mode becomes inference, on purpose",
    "test_training_dropout_default_mask": "Dropout: training mode becomes inference, on purpose",
    "test_training_dropout_mask": "Dropout: training mode becomes inference, on purpose",
}
# Error messages without the names of nodes and tensors, so that equal reasons share one section.
PATTERNS = (
    (r"domain (\S+) is not standard", r"domain \1: not standard ONNX"),
    (r"\((\w+)\): operator-oriented", r"\1: operator-oriented or dynamic quantization, refused as not QDQ"),
    (r"not supported for frontend ONNX: (\w+)", r"\1: no such operator, neither here nor in TVM's importer"),
    (r"left to it, one of (\w+): (.*)", r"\1: TVM can't compile it: \2"),
    (r"(an activation on .* can't be lowered)", r"\1"),
    (r"operator (\w+): (.*)", r"\1: \2"),
    (r"operator (\w+) has no kernel here, and TVM's ONNX importer (.*)", r"\1: TVM's importer \2"),
    (r"type (\w+) is not supported", r"type \1 is not supported"),
    (r"\((\w+)\): its output .* is empty", r"\1: empty output"),
    (r"input .* is empty", r"empty input"),
    (r"\((\w+)\).* its size depends on the data", r"\1: the size of its output depends on the data"),
    (r"(quantized to \w+)", r"\1, refused as not INT8"),
    (r"per-channel scale must be 1-D", r"blocked quantization of an activation"),
    (r"scale is computed at run time", r"scale computed at run time"),
    (r"shapes contradict each other", r"shape inference refuses the expanded function"),
    (r"\((\w+)\): the shape of its output", r"\1: the shape of its output is not static"),
    (r"\((\w+)\): how often it runs", r"\1: data decide how often it runs"),
    (r"\((\w+)\): quantized dynamically", r"\1: dynamic quantization, refused as such"),
    (r"\((\w+)\): ONNX has it from opset (\d+) on", r"\1: of opset \2, newer than the file's"),
)


def reason_of(name: str, outcome: str) -> str:
    """The line above a case in excluded.txt."""
    if name in KNOWN:
        return KNOWN[name]
    for pattern, reason in PATTERNS:
        found = re.search(pattern, outcome.split("\n")[0])
        if found:
            return found.expand(reason)[:150].strip()
    return outcome.removeprefix("refused: ").split("\n")[0][:150]


def main() -> None:
    """Run every case and write the lists."""
    passing: dict[bool, list[str]] = {True: [], False: []}
    excluded = defaultdict(list)
    served = {*LOWERINGS, "QuantizeLinear", "DequantizeLinear", "Constant", "CastLike"}
    for name, case in cases.cases().items():
        result = cases.outcome(case)
        if result:
            excluded[reason_of(name, result)].append(name)
        else:
            passing[all(node.op_type in served for node in case.model.graph.node)].append(name)
    (cases.HERE / "onnx_version.txt").write_text(onnx.__version__ + "\n")
    cases.OWN.write_text("# operators that have kernels here\n" + "\n".join(sorted(passing[True])) + "\n")
    cases.IMPORTED.write_text("# some operators through TVM's importer\n" + "\n".join(sorted(passing[False])) + "\n")
    sections = (f"# {reason}\n" + "\n".join(sorted(names)) for reason, names in sorted(excluded.items()))
    cases.EXCLUDED.write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
