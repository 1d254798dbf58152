"""Heads of very different size in one output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from drpai_qat.check.fidelity import check_outputs
from drpai_qat.check.heads import Joint, find_joints, small_heads
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.runtimes.onnxruntime import Reference
from tests.lowering.running import model

YOLO = """b = Mul(x, hundred)  s = Sigmoid(z)  c = Concat<axis = 1>(b, s)  t = Transpose<perm = [0, 2, 1]>(c)
y = Identity(t)"""


def detector(zeroed: bool = False) -> onnx.ModelProto:
    """Four boxes of hundreds and six scores below one for each of 20 places, in one output."""
    body = YOLO.replace("Sigmoid(z)", "Mul(z, none)" if zeroed else "Sigmoid(z)")
    constants: dict[str, Any] = {"hundred": np.float32(300)} | ({"none": np.float32(0)} if zeroed else {})
    return model("(float[1,4,20] x, float[1,6,20] z) => (float[1,20,10] y)", body, **constants)


def test_scores_at_zero_do_not_pass_behind_boxes() -> None:
    rng = np.random.default_rng(0)
    samples = [
        {"x": rng.normal(0, 1, (1, 4, 20)).astype(np.float32), "z": rng.normal(-4, 1, (1, 6, 20)).astype(np.float32)}
    ]
    source, wrong = Reference(detector(), "source"), Reference(detector(zeroed=True), "wrong")
    joints = find_joints(detector())
    assert joints == {"y": Joint(2, (4, 6))}
    result = check_outputs(source, source, wrong.run, {}, samples, Thresholds(), joints)
    assert result.outputs[0].sqnr_db > 39
    (text,) = result.shortfalls
    assert "y, channels 4 to 9 of axis 2" in text
    assert "SQNR 0.0 dB is below 30 dB" in text
    assert check_outputs(source, source, source.run, {}, samples, Thresholds(), joints).passed


def test_channels_by_size_where_no_concat_tells() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(0, 1, (1, 10, 50)).astype(np.float32)
    wanted[:, [0, 2, 4]] *= 500
    found = wanted.copy()
    found[:, [1, 3, 5, 6, 7, 8, 9]] = 0
    (head,) = small_heads("y", [found], [wanted], None)
    assert (head.axis, head.first, head.last, head.sqnr_db) == (1, 1, 9, 0.0)


@pytest.mark.parametrize("shape", [(1, 1000), (4, 10)])
def test_classes_are_no_heads(shape: tuple[int, ...]) -> None:
    wanted = np.exp(np.random.default_rng(0).normal(0, 8, shape)).astype(np.float32)
    assert small_heads("y", [wanted], [wanted], None) == ()
