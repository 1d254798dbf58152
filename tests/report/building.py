"""A report to look at."""

from pathlib import Path

import numpy as np

from drpai_qat.check.fidelity import CheckResult
from drpai_qat.check.figures import compare_output
from drpai_qat.core.coverage import LoweredNode
from drpai_qat.core.quantization import QuantParams
from drpai_qat.report.content import Report
from drpai_qat.report.size import MemoryUse, Size
from preprocess import Note

COVERAGE = (
    LoweredNode("c1", "Conv", "int8", 600, ""),
    LoweredNode("c2", "Conv", "int16", 300, ""),
    LoweredNode("c3", "Conv", "float32", 100, "input has no range"),
    LoweredNode("s", "Softmax", "float32", 0, "no integer form"),
    LoweredNode("r", "Reshape", "view", 0, ""),
)


def report(check=None):
    return Report(
        model={"name": "[red]net.onnx", "sha256": "00", "qat_type": "pytorch"},
        output_dir=Path("out/net"),
        target="avx2",
        runs_on="this machine",
        next_command="drpai-qat run OUT",
        weights=3,
        activations=5,
        notes=(Note("skipped", "p", "fq7", "no consumer"), Note("folded", "p", "fq1", "weights")),
        coverage=COVERAGE,
        size=Size(600_000, 2_400_000, 2_000_000, MemoryUse(400_000, 50_000, (30_000, 50_000, 10_000))),
        samples=None,
        check=check,
        seconds={"loading": 0.5, "compiling": 12.0},
    )


def check(found, **changes):
    figures = compare_output(
        "y", [np.array(found, np.float32)], [np.array([[1, 2, 3]], np.float32)], QuantParams.of(0.5)
    )
    return CheckResult(4, (figures,), (figures,), **changes)
