"""What became of each node of the canonical model: said by whoever compiles it, told by the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

INTEGER = ("int8", "int16")
"""What `compute` says of arithmetic in integers."""


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


@dataclass(frozen=True)
class KernelCall:
    """One step of a compiled network.

    Attributes:
        kind: what its kernel's name begins with.
        node: whose step it is, as the coverage names it; conversions belong to the node that needs them.
    """

    kind: str
    node: str


def int8_mac_fraction(coverage: Iterable[LoweredNode]) -> float:
    """Share of multiply-accumulates done in integers (weights and activations of int8 or int16); 1.0 without any."""
    nodes = list(coverage)
    total = sum(node.macs for node in nodes)
    return sum(node.macs for node in nodes if node.compute in INTEGER) / total if total else 1.0
