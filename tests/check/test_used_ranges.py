import numpy as np
import onnx.parser
import pytest

from drpai_qat.check.accumulated import accumulated
from drpai_qat.check.used_ranges import BINS, Watched

MODEL = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[1,8] x) => (float[1,8] y)
<float s = {0.5}, int8 z = {3}, float low = {-2.0}, float high = {30.0}>
{
  c = Clip (x, low, high)
  q = QuantizeLinear (c, s, z)
  y = DequantizeLinear (q, s, z)
}
"""


def test_how_much_of_a_range_is_used():
    watched = Watched(onnx.parser.parse_model(MODEL), "net")
    sample = np.array([[-9, -2, 0, 0, 1, 2, 10, 10]], np.float32)
    assert watched.run({"x": sample})["y"].ravel()[0] == -2
    watched.run({"x": sample + 100})
    (one,) = watched.used()
    assert (one.tensor, one.scale, one.zero_point) == ("q", 0.5, 3)
    assert (one.qmin, one.qmax) == (-1, 63)  # what the Clip in front leaves of int8
    assert (one.least, one.greatest) == (-1, 63)
    assert (one.at_least, one.at_most) == (2 / 16, 8 / 16)
    assert len(one.histogram) == BINS
    assert sum(one.histogram) == 16


def test_later_samples_run_and_are_not_counted():
    watched = Watched(onnx.parser.parse_model(MODEL), "net")
    for _ in range(6):
        assert set(watched.run({"x": np.zeros((1, 8), np.float32)})) == {"y"}
    assert sum(watched.used()[0].histogram) == 4 * 8


def test_what_is_not_a_number_where_it_is_quantized():
    model = onnx.parser.parse_model(MODEL.replace("c = Clip (x, low, high)", "r = Sqrt (x)\n c = Clip (r, low, high)"))
    watched = Watched(model, "net")
    assert set(watched.run({"x": np.ones((1, 8), np.float32)})) == {"y"}
    assert watched.undefined() == ()
    watched.run({"x": np.array([[-9, -2, 0, 0, 1, 2, 10, 10]], np.float32)})
    (told,) = watched.undefined()
    assert told.startswith("c: 2 of 16 values are NaN where they are quantized")


def test_errors_of_one_run():
    wanted = np.array([[3, 13, 23, 33, 3, 3, 3, 3]], np.int8)
    (one,) = accumulated(onnx.parser.parse_model(MODEL), {"q": wanted + (wanted == 33)}, {"q": wanted})
    assert (one.unequal, one.count, one.max_lsb) == (1, 8, 1)
    assert one.sqnr_db == pytest.approx(10 * np.log10(100 + 400 + 900))
    (same,) = accumulated(onnx.parser.parse_model(MODEL), {"q": wanted}, {"q": wanted})
    assert same.to_json()["sqnr_db"] is None
