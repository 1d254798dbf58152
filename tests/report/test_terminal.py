import io

from rich.console import Console

from drpai_qat.check.layers import LayerFigures
from drpai_qat.report.terminal import show
from tests.report.building import check, report


def printed(one, **arguments):
    text = io.StringIO()
    show(one, Console(file=text, width=160), **arguments)
    return text.getvalue()


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


def test_sizes():
    assert (
        "code 0.6 MB, parameters 2.4 MB (1.20 bytes per weight); a run takes 0.4 MB for activations, of which at most "
        "50.0 kB hold data at any one time" in printed(report())
    )
