"""--ptq best: weights fitted layer by layer."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import preprocess
from drpai_qat.calibration import reconstruction
from drpai_qat.calibration.alternatives import Tried
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.fitting import Fitted
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.walk import walk
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Silent
from drpai_qat.options import CompileOptions
from drpai_qat.report.calibrated import fitted
from tests.calibration.float_models import attention, frames, make, residual

FORMS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,4,9,8] x) => (float[1,6] y, float[1,4,17,15] up)
{
  a = Conv <kernel_shape=[3,2], pads=[1,0,2,1], strides=[2,1], dilations=[1,2], group=2> (x, w1, bias1)
  r = Relu (a)
  b = Conv <kernel_shape=[3,3], group=6> (r, w2)
  m = GlobalAveragePool (b)
  f = Flatten (m)
  y = Gemm <transB=1, beta=0.5> (f, w3, bias3)
  up = ConvTranspose <kernel_shape=[1,1], strides=[2,2]> (x, w4)
}
"""


def forms():
    """Convolutions with uneven windows and groups, a linear layer, and one of a kind that is not fitted."""
    return make(
        FORMS, w1=(6, 2, 3, 2), bias1=(6,), w2=(6, 1, 3, 3), w3=(6, 6), bias3=(6,), w4=(4, 4, 1, 1)
    )  # fmt: skip


def folded(model):
    return preprocess.preprocess(model, may_be_float=True).model


@pytest.mark.parametrize(("network", "layers"), [(forms, 3), (residual, 7), (attention, 2)])
def test_a_layer_is_a_matrix_product(network, layers):
    model = folded(network())
    quantized = quantize_float(model, frames(model, 4), Recipe(equalizes=False, corrects=False), Silent()).model
    seen = []

    def visit(step):
        y = step.run()
        rows = reconstruction._rows(replace(step, x=step.x_float), 0)
        if rows is not None:
            weights = reconstruction._matrix(step.layer, step.weights)
            back = reconstruction._unmatrix(step.layer, weights, step.weights.shape)
            np.testing.assert_array_equal(back, step.weights)
            assert rows.error(weights.astype(np.float64)) < 1e-8 * max(float(np.square(rows.y).sum()), 1e-3)
            seen.append(step.layer.name)
        return y

    walk(gs.import_onnx(model), gs.import_onnx(quantized), frames(model, 4), visit, Silent())
    assert len(seen) == layers


def test_fitted_weights_are_nearer_on_other_frames():
    found = quantize_float(folded(residual()), frames(residual(), 48), Recipe(fits=True), Silent())
    assert found.fitted is not None
    assert found.fitted.is_kept
    assert found.fitted.frames == 12
    told = found.fitted.to_json()
    assert told["drop_best"] < 0.95 * told["drop_fast"]
    preprocess.validate(found.model)


def tried(errors):
    return Tried(Recipe(), None, np.array(errors)[:, None])


def test_what_is_no_better_is_not_kept():
    fast = tried([0.01, 0.01, 0.01])
    assert Fitted(3, fast, tried([0.005, 0.005, 0.011])).is_kept
    assert not Fitted(3, fast, fast).is_kept
    assert not Fitted(3, fast, tried([0.005, 0.005, 0.1])).is_kept  # one frame loses too much
    exact = Fitted(3, tried([0.0, 0.0, 0.0]), tried([0.0, 0.0, 0.0]))
    assert "not clearly better" in fitted({"ptq": exact.to_json()})
    few = quantize_float(folded(residual()), frames(residual(), 7), Recipe(fits=True), Silent())
    assert few.model == quantize_float(folded(residual()), frames(residual(), 7), Recipe(), Silent()).model
    assert few.fitted is not None
    assert fitted({"ptq": few.fitted.to_json()}) == "weights are not fitted: 7 frames are too few"


def test_through_the_command(tmp_path, capsys):
    onnx.save(residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([one["x"] for one in frames(residual(), 48)]))
    arguments = ["-o", str(tmp_path / "out"), "--calibration", str(tmp_path / "data.npz"), "--ptq", "best"]
    assert compile_main([str(tmp_path / "net.onnx"), *arguments, "--check", "layers"]) == 0
    assert "fitted weights kept: " in " ".join(capsys.readouterr().out.split())
    told = json.loads((tmp_path / "out/report.json").read_text())["calibration"]["ptq"]
    assert (told["kept"], told["frames"]) == ("best", 12)


def test_trained_weights_are_not_fitted():
    with pytest.raises(OptionError, match="--ptq best: for models without QAT"):
        CompileOptions("m.onnx", qat_type="pytorch", ptq="best")
    assert not CompileOptions("m.onnx", qat_type="pytorch", ptq="fast").calibration_recipe.fits
