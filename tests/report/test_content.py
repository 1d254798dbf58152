import io
import json
from pathlib import Path

import numpy as np
from rich.console import Console

from drpai_qat.check.fidelity import CheckResult
from drpai_qat.check.figures import compare_output
from drpai_qat.check.layers import LayerFigures
from drpai_qat.core.quantization import QuantParams
from drpai_qat.report.content import FoldNote, NodeCoverage, Report
from drpai_qat.report.size import MemoryUse, Size

COVERAGE = (
    NodeCoverage("c1", "Conv", "int8", 600, ""),
    NodeCoverage("c2", "Conv", "int16", 300, ""),
    NodeCoverage("c3", "Conv", "float32", 100, "input has no range"),
    NodeCoverage("s", "Softmax", "float32", 0, "no integer form"),
    NodeCoverage("r", "Reshape", "view", 0, ""),
)


def report(check=None):
    return Report(
        model={"name": "[red]net.onnx", "sha256": "00", "qat_type": "pytorch"},
        output_dir=Path("out/net"),
        target="avx2",
        weights=3,
        activations=5,
        notes=(FoldNote("skipped", "fq7", "no consumer"), FoldNote("folded", "fq1", "weights")),
        coverage=COVERAGE,
        int8_mac_fraction=0.9,
        size=Size(600_000, 2_400_000, 2_000_000, MemoryUse(400_000, 50_000)),
        check=check,
        seconds={"loading": 0.5, "compiling": 12.0},
    )


def printed(one, **arguments):
    text = io.StringIO()
    one.print(Console(file=text, width=160), **arguments)
    return text.getvalue()


def check(found, **changes):
    figures = compare_output("y", [np.float32(found)], [np.float32([[1, 2, 3]])], QuantParams.of(0.5))
    return CheckResult(4, (figures,), (figures,), **changes)


def test_facts():
    text = printed(report())
    for fact in (
        "[red]net.onnx (pytorch QAT)",
        "3 weights, 5 activations",
        "90.0% (30.0% with int16 activations)",
        "Conv: input has no range; Softmax: no integer form",
        "fq7: no consumer",
        "12 s (compiling 12 s)",
        "not checked",
        "out/net",
    ):
        assert fact in text
    assert "folded fq1" not in text
    assert "folded fq1: weights" in printed(report(), notes=True)


def test_outputs_and_shortfalls():
    text = printed(report(check([[1, 2, 3]])))
    assert "passed" in text
    assert "exact" in text
    text = printed(report(check([[1, 2, 4]], shortfalls=("y: SQNR too low",), divergence="first at t (Conv c)")))
    assert "FAILED" in text
    assert "2.00 LSB" in text
    assert "check failed: y: SQNR too low" in text
    assert "first at t (Conv c)" in text


def test_layers():
    layers = (LayerFigures("a", "Conv one", 1.0, 0, 1000), LayerFigures("b", "Add two", 0.5, 9, 1000))
    text = printed(report(check([[1, 2, 3]], layers=layers)))
    assert "2 quantized tensors, 1 equal to the last bit" in text
    assert "50.000%" in text
    assert "9 LSB" in text


def test_plain_without_a_terminal():
    assert "\x1b" not in printed(report(check([[1, 2, 4]], shortfalls=("x",))))


def test_json(tmp_path):
    one = report(check([[1, 2, 3]], layers=()))
    one.write(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["check"]["outputs"][0]["sqnr_db"] is None
    assert content["check"]["outputs"][0]["exact"] is True
    assert content["coverage"][2] == {
        "node": "c3", "op": "Conv", "compute": "float32", "macs": 100, "reason": "input has no range",
    }  # fmt: skip
    assert "out" not in content


def test_sizes():
    assert (
        "code 0.6 MB, parameters 2.4 MB (1.20 bytes a weight); while running 0.4 MB of activations "
        "(alive at once 50.0 kB)" in printed(report())
    )
    assert report().to_json()["size"] == {
        "deploy.so": 600_000,
        "deploy.params": 2_400_000,
        "weights": 2_000_000,
        "params_bytes_a_weight": 1.2,
        "workspace": 400_000,
        "largest_live_activations": 50_000,
    }
