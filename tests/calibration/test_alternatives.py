"""Steps that make the whole network worse are left out, as frames tell that had no part in them."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import preprocess
from drpai_qat.calibration import calibrate, equalization, scaling
from drpai_qat.calibration.alternatives import Comparison, Tried
from drpai_qat.calibration.bias_correction import add_to_bias, correct_bias
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.core.progress import Silent
from drpai_qat.report.calibrated import left_out
from tests.calibration.float_models import frames, make, residual


def tried(errors):
    return Tried(Recipe(), None, np.asarray(errors, np.float64))


def test_nearer_is_more_than_chance():
    generator = np.random.default_rng(0)
    plain = 10 ** generator.uniform(-4, -2, (12, 2))
    noise = 10 ** generator.normal(0, 0.1, (12, 1))
    assert tried(plain * 0.7 * noise).is_nearer(tried(plain))
    assert not tried(plain).is_nearer(tried(plain * 0.7))
    assert not tried(plain * noise).is_nearer(tried(plain))  # some nearer, some farther
    assert not tried(plain * 0.99).is_nearer(tried(plain))  # nothing to speak of
    farther = plain * 0.7
    farther[0] *= 1000
    assert not tried(farther).is_nearer(tried(plain))  # one frame loses more than all others gain
    assert not tried(plain * np.nan).is_nearer(tried(plain))
    assert not tried(plain[:1] * 0.1).is_nearer(tried(plain[:1]))
    assert not tried(np.zeros((12, 2))).is_nearer(tried(np.zeros((12, 2))))
    assert tried([[0.01, 0.04], [0.01, 0.04]]).drop == pytest.approx(20)
    assert tried([[0.01, 0.04], [0.01, 0.04]]).sqnr_db == pytest.approx((20 + 13.979) / 2, abs=1e-3)


def harmful_biases(step):
    y = correct_bias(step)
    if step.layer.op == "Gemm":  # the last one: what layers before do wrong, those behind it correct
        add_to_bias(step.layer, np.full(y[0].shape[-1], 0.2, np.float32))
    return y


def harmful_scales(model, few, recipe, progress, *, multiplies):
    graph = gs.import_onnx(model)
    groups = scaling.find_groups(graph, multiplies=multiplies)
    scales = [(one, np.logspace(-2, 2, one.channels).astype(np.float32)) for one in groups]
    scaled = scaling.apply(graph, scales)
    return gs.export_onnx(graph, do_type_check=False), scaled


def quantized(count, recipe):
    folded = preprocess.preprocess(residual(), may_be_float=True).model
    found = quantize_float(folded, frames(residual(), count), recipe, Silent())
    preprocess.validate(found.model)
    return found


def test_corrected_biases_are_left_out_where_they_harm(monkeypatch):
    wanted = quantized(24, Recipe(equalizes=False, corrects=False))
    assert quantized(24, Recipe(equalizes=False)).model != wanted.model
    monkeypatch.setattr(calibrate, "correct_bias", harmful_biases)
    found = quantized(24, Recipe(equalizes=False))
    assert found.model == wanted.model
    assert found.compared is not None
    assert found.compared["frames"] == 6
    assert [(one["biases_corrected"], one["kept"]) for one in found.compared["networks"]] == [
        (True, False),
        (False, True),
    ]
    assert left_out({"compared": found.compared}).startswith("corrected biases: ")
    few = quantized(12, Recipe(equalizes=False))  # too few to tell
    assert few.compared is None
    assert left_out({}) == ""


def test_scaled_channels_are_left_out_where_they_harm(monkeypatch):
    recipe = Recipe(fits=True)
    wanted = quantized(24, Recipe(equalizes=False, fits=True))
    monkeypatch.setattr(equalization, "equalize", harmful_scales)
    found = quantized(24, recipe)
    assert found.equalized == ()
    assert found.model == wanted.model
    assert found.compared is not None
    assert [one["equalized"] for one in found.compared["networks"]] == [True, False, False, False, False]
    assert left_out({"compared": found.compared}).startswith("scaled channels: ")
    assert quantized(24, Recipe()).equalized  # `fast` does not ask


def test_what_goes_into_a_softmax_is_compared():
    """But not an input of the network itself, which is no result of it."""
    model = make("""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,8] x) => (float[1,8] y, float[1,8] z)
    { h = MatMul (x, w)
      y = Softmax (h)
      z = Softmax (x) }
    """, w=(8, 8))  # fmt: skip
    data = frames(model, 4)
    compared = Comparison(model, data)
    plain = quantize_float(preprocess.preprocess(model, may_be_float=True).model, data, Recipe(), Silent()).model
    exact, rounded = compared.add(Recipe(), model), compared.add(Recipe(), plain)
    assert (exact.errors == 0).all()
    assert rounded.errors.shape == (4, 2)
    assert (rounded.errors[:, 0] > 0).all()


class Stream:
    """The same frames, but nobody knows how many."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_data_of_unknown_length_calibrates_as_a_list_does():
    data = frames(residual(), 24)
    folded = preprocess.preprocess(residual(), may_be_float=True).model
    one, other = (quantize_float(folded, given, Recipe(), Silent()) for given in (data, Stream(data)))
    assert one.equalized
    assert one.model == other.model
