import io
import itertools
from dataclasses import replace

import pytest
from rich.console import Console

from drpai_qat.check.certificate import Certificate
from drpai_qat.core.errors import ModelError
from drpai_qat.report.terminal import show
from drpai_qat.report.warnings import refuse_warnings
from preprocess import Note
from tests.report.building import check, report


def printed(one, width=160, **arguments):
    text = io.StringIO()
    show(one, Console(file=text, width=width), **arguments)
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


def test_warnings_are_shown():
    noted = replace(report(), notes=(Note("warning", "p", "model", "never calibrated"),))
    assert "warning: never calibrated" in printed(noted)
    assert "warning" not in printed(report())
    with pytest.raises(ModelError, match=r"never calibrated.*--strict"):
        refuse_warnings(noted.notes)
    refuse_warnings(report().notes)


def test_outputs_and_shortfalls():
    text = printed(report(check([[1, 2, 3]])))
    assert "passed" in text
    assert "exact" in text
    text = printed(report(check([[1, 2, 4]], shortfalls=("y: SQNR too low",), uncertified="first at t (Conv c)")))
    assert "FAILED" in text
    assert "2.00 LSB" in text
    assert "check failed: y: SQNR too low" in text
    assert "first at t (Conv c)" in text


def test_layers():
    layers = (
        Certificate("a", "Conv one", count=1000, reference_unequal=4),
        Certificate("b", "Add two", count=1000, unequal=7, wrong=5, max_lsb=9, distance=0.25),
        Certificate("c", "Mul three", count=1000, unequal=2, max_lsb=1, distance=2e-6),
        Certificate("d", "Foo four", missing="Foo is not evaluated"),
    )
    text = printed(report(check([[1, 2, 3]], layers=layers, folding=layers[:2])))
    assert "4 tensors against exact arithmetic: 1 equal, 1 with ties only (2, within 2e-06 LSB), 1 wrong, 1 not" in text
    assert "onnxruntime's own float32 differs in 4 integers; fold: 1 of 2 certified" in text
    assert "5 wrong" in text
    assert "0.25 LSB" in text
    assert "not evaluated" in text


def test_tables_fit_80_columns():
    name = "/model/backbone/stage3/blocks.11/conv_pw/Conv_output_0_quantized"
    layers = (Certificate(name, f"Conv {name}", count=802816, unequal=802816, wrong=1234, max_lsb=12.5, distance=0.25),)
    found = check([[1, 2, 4]], layers=layers)
    text = printed(report(replace(found, outputs=(replace(found.outputs[0], name=name),))), width=80)
    head, row = next(pair for pair in itertools.pairwise(text.splitlines()) if pair[0].startswith("tensor"))
    assert len(head.rstrip()) <= 80
    assert row.split()[0].startswith("/model/")
    assert row.rstrip().endswith("12.5 LSB")
    head, row = next(
        pair for pair in itertools.pairwise(text.splitlines()) if pair[0].startswith("output") and "SQNR" in pair[0]
    )
    assert "…" in row
    assert "2.00 LSB" in row


def test_units_are_explained_where_they_stand():
    found = check([[1, 2, 4]])
    assert "a 127th" not in printed(report(found))
    assert "the fold alone (model_int8.onnx in onnxruntime): y 11.5 dB" in printed(report(found))
    free = replace(found, outputs=(replace(found.outputs[0], lsb_trained=False),))
    assert "LSB*: the output has no trained grid; a step is a 127th of its largest value" in printed(report(free))


def test_what_the_trained_network_amplifies_passes():
    text = printed(report(check([[1, 2, 4]], shortfalls=("y: SQNR too low",), amplified="itself amplifies")))
    assert "passed against" in text
    assert "missed: y: SQNR too low" in text
    assert "itself amplifies" in text


def test_plain_without_a_terminal():
    assert "\x1b" not in printed(report(check([[1, 2, 4]], shortfalls=("x",))))


def test_sizes():
    assert (
        "code 0.6 MB, parameters 2.4 MB (1.20 bytes per weight); a run takes 0.4 MB for activations, of which at most "
        "50.0 kB hold data at any one time" in printed(report())
    )
