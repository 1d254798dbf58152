import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from drpai_qat.data.samples import make_samples
from tests.small_models import qdq_model

VIEWED = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[1,16,16,3] x, float[1,5] v) => (float[1,3,16,16] y, float[1,5] w)
<float s = {0.5}, int8 z = {0}, float low = {-10.0}, float high = {20.0}>
{
  t = Transpose <perm=[0,3,1,2]> (x)
  c = Clip (t, low, high)
  q = QuantizeLinear (c, s, z)
  y = DequantizeLinear (q, s, z)
  w = Relu (v)
}
"""


def test_trained_range_is_used_to_its_ends():
    (sample,) = make_samples(qdq_model(), 1, 0)
    assert sample["x"].dtype == np.float32
    assert sample["x"].shape == (1, 3, 8, 8)
    assert sample["x"].min() == pytest.approx(0.02 * -128)
    assert sample["x"].max() == pytest.approx(0.02 * 127)


def test_range_is_found_through_views_and_clip():
    (sample,) = make_samples(onnx.parser.parse_model(VIEWED), 1, 0)
    assert sample["x"].min() == pytest.approx(-10)
    assert sample["x"].max() == pytest.approx(20)


def test_without_a_range_values_are_normalized():
    (sample,) = make_samples(onnx.parser.parse_model(VIEWED), 1, 0)
    assert sample["v"].std() == pytest.approx(1)


def test_deterministic_and_all_different():
    first, again = (make_samples(qdq_model(), 3, 7) for _ in range(2))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours["x"], theirs["x"])
    assert not np.array_equal(first[0]["x"], first[1]["x"])
    assert not np.array_equal(first[0]["x"], make_samples(qdq_model(), 1, 8)[0]["x"])


def test_images_are_smooth():
    """Neighbours resemble each other, as in a photo; white noise would exercise convolutions differently."""
    (sample,) = make_samples(onnx.parser.parse_model(VIEWED), 1, 0)
    image = sample["x"][0, :, :, 0]
    assert np.corrcoef(image[1:].ravel(), image[:-1].ravel())[0, 1] > 0.5


def test_a_range_that_nothing_reaches_is_taken_for_every_other_sample():
    source = qdq_model()
    scale = next(tensor for tensor in source.graph.initializer if tensor.name == source.graph.node[0].input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(1e20, np.float32), scale.name))
    largest = [float(np.abs(sample["x"]).max()) for sample in make_samples(source, 3, 0)]
    assert [value > 1e20 for value in largest] == [True, False, True]
    assert 1 < largest[1] < 10
