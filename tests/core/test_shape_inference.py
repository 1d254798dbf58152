"""What inference may take, and what is known all the same."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor

import onnx
import pytest

from drpai_qat.core import shape_inference


def test_long_vectors_take_no_more_than_the_headroom(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx would take 400 MB for the addition alone."""
    monkeypatch.setattr(shape_inference, "_HEADROOM", 100 << 20)
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[3000000] x, float[2] z) => (y, t) {
            y = Add (x, x)
            s = Shape (z)
            k = Concat <axis = 0> (s, s)
            t = ConstantOfShape (k)
        }
    """)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    found = shape_inference.inferred(model).graph.output
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert [sizes(one) for one in found] == [[3000000], [0, 0]]  # two that are not known
    del model.graph.node[0], model.graph.output[0]
    assert [sizes(one) for one in shape_inference.inferred(model).graph.output] == [[2, 2]]


def test_threads_leave_the_limit_as_it_was() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]> g (float[3] x) => (float[3] y) { y = Relu (x) }
    """)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shape_inference.inferred(model), range(400)))
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
