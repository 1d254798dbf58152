"""Biases corrected for what quantization shifts."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import preprocess
from drpai_qat.calibration.bias_correction import mean_shift
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.walk import frames_in_memory, walk
from drpai_qat.core.progress import Silent
from tests.calibration.float_models import attention, frames, residual
from tests.reference import reference


def positive_inputs(model, count, seed):
    """Frames whose mean is not zero, as behind a ReLU: there errors of weights shift the mean of what is computed."""
    return [{name: np.abs(value) + 1 for name, value in one.items()} for one in frames(model, count, seed)]


def test_means_of_outputs_come_back():
    source = residual()
    folded = preprocess.preprocess(source, may_be_float=True).model
    data, samples = positive_inputs(source, 24, 0), positive_inputs(source, 24, 7)
    wanted = np.concatenate([reference(source, one)[0] for one in samples])
    shifts = []
    for corrects in (False, True):
        found = quantize_float(folded, data, Recipe(corrects=corrects), Silent())
        preprocess.validate(found.model)
        got = np.concatenate([reference(found.model, one)[0] for one in samples])
        shifts.append(float(np.abs((got - wanted).mean(axis=0)).mean()))
    assert shifts[1] < 0.5 * shifts[0]


def test_what_frames_cannot_tell_from_chance_is_left_out():
    generator = np.random.default_rng(0)
    noise = [generator.normal(0, 1, (1, 2, 50)).astype(np.float32) for _ in range(20)]
    wanted = [one + np.array([0.5, 0.0], np.float32)[None, :, None] for one in noise]
    exact = [np.zeros_like(one) for one in noise]
    shift = mean_shift(exact, wanted, axis=1)
    assert shift[0] == pytest.approx(0.5, abs=0.1)
    assert abs(shift[1]) < 0.05
    assert mean_shift(noise, noise, axis=1).tolist() == [0, 0]


@pytest.mark.parametrize(("make", "layers"), [(residual, 7), (attention, 2)])
def test_the_walk_sees_what_both_networks_compute(make, layers):
    """Inputs and outputs of every layer are those of whole runs."""
    folded = preprocess.preprocess(make(), may_be_float=True).model
    data = frames(folded, 3)
    quantized = quantize_float(folded, data, Recipe(equalizes=False, corrects=False), Silent()).model
    seen = {}

    def visit(step):
        y = step.run()
        seen[step.layer.name] = (step.layer.outputs[0].name, step.y_float, y)
        return y

    walk(gs.import_onnx(folded), gs.import_onnx(quantized), data, visit, Silent())
    assert len(seen) == layers
    for name, y_float, y in seen.values():
        for model, found in ((folded, y_float), (quantized, y)):
            exposed = onnx.ModelProto()
            exposed.CopyFrom(model)
            exposed.graph.output.append(onnx.ValueInfoProto(name=name))
            for frame, one in zip(data, found, strict=True):
                np.testing.assert_allclose(reference(exposed, frame)[-1], one, rtol=1e-4, atol=1e-5)


def test_frames_that_fit():
    assert 4 <= frames_in_memory(residual()) <= 64
