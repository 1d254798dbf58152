"""What became of each node of the canonical model: said by the lowering, told by the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoweredNode:
    """What became of one node.

    Attributes:
        node, op: its name and ONNX operator.
        compute: "int8", "int16", "float32", "tvm" (float32 by TVM's importer) or "view" (no arithmetic).
        macs: multiply-accumulates, 0 for all but convolutions and matrix products.
        reason: why it is not in integers; empty where it is.
    """

    node: str
    op: str
    compute: str
    macs: int = 0
    reason: str = ""
