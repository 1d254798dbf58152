from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpai_qat.core.errors import QuantizationError
from drpai_qat.core.quantization import QuantParams
from tests.reference import reference


@settings(max_examples=50)
@given(
    dtype=st.sampled_from([np.int8, np.uint8, np.int16, np.uint16]),
    scale=st.floats(2.0**-60, 2.0**40, width=32),
    zero_point=st.integers(-40000, 70000),
    seed=st.integers(0, 2**31),
)
def test_rounds_as_onnxruntime_does(dtype: type, scale: float, zero_point: int, seed: int) -> None:
    limits = np.iinfo(dtype)
    point = np.clip(zero_point, limits.min, limits.max)
    rng = np.random.default_rng(seed)
    ties = np.arange(-8, 8) + 0.5
    steps = np.concatenate([ties, rng.normal(0, limits.max, 48), [0.0, -0.0, 1e30, -1e30]])
    x = np.clip(steps * scale, -3e38, 3e38).astype(np.float32)
    source = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> net (float[68] x) => (int64[68] q, float[68] y)'
        "{ i = QuantizeLinear (x, s, z) q = Cast <to=7> (i) y = DequantizeLinear (i, s, z) }"
    )
    source.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.asarray(scale, np.float32), "s"),
            onnx.numpy_helper.from_array(np.asarray(point, dtype), "z"),
        ]
    )
    params = QuantParams.of(scale, point, dtype)
    q, y = reference(source, {"x": x})
    np.testing.assert_array_equal(params.quantize(x), q)
    np.testing.assert_array_equal(params.dequantize(params.quantize(x)), y)


def test_values_compare_by_content() -> None:
    one, two = QuantParams.of([0.1, 0.2], 0, axis=1), QuantParams.of(np.array([0.1, 0.2]), [0, 0], np.int8, axis=1)
    assert one == two
    assert hash(one) == hash(two)
    assert one != QuantParams.of([0.1, 0.2], 0, axis=0)
    assert one != QuantParams.of([0.1, 0.2], 0, qmin=-127, axis=1)


def test_per_channel_parameters_run_along_their_axis() -> None:
    params = QuantParams.of([1.0, 2.0], [0, 10], axis=1)
    np.testing.assert_array_equal(params.dequantize(np.array([[4, 14], [6, 16]], np.int8)), [[4, 8], [6, 12]])
    np.testing.assert_array_equal(params.quantize(np.array([[4, 8], [6, 12]], np.float32)), [[4, 14], [6, 16]])


def test_narrow_range_clips() -> None:
    params = QuantParams.of(0.5, 10, np.uint8, qmin=0, qmax=15)
    assert not params.full_range
    assert params.quantize(np.array([-100, 0, 100], np.float32)).tolist() == [0, 10, 15]
    assert [float(one) for one in params.real_range()] == [-5.0, 2.5]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scale": [1.0, 2.0]}, "without a channel axis"),
        ({"scale": [[1.0, 2.0]], "axis": 0}, "must be 1-D"),
        ({"scale": [1.0, 2.0, 3.0], "zero_point": [1, 2], "axis": 0}, "2 zero points for 3 scales"),
        ({"scale": 1.0, "zero_point": 300}, "zero point 300..300 outside int8"),
        ({"scale": 1.0, "qmin": 5, "qmax": 5}, "range 5..5 doesn't fit int8"),
        ({"scale": 1.0, "qmax": 200}, "doesn't fit int8"),
        ({"scale": np.zeros(0), "axis": 0}, "scale is empty"),
        ({"scale": 0.0}, "node n, tensor t: scale = 0 is zero"),
    ],
)
def test_what_makes_no_grid_is_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(QuantizationError, match=says):
        QuantParams.of(**arguments, where="node n, tensor t")  # type: ignore[arg-type]
