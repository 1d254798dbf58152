"""--calibrate_method layer: ranges chosen by the error of the layers that read a tensor."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import preprocess
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.layer_error import _reading
from drpai_qat.calibration.placement import sites_everywhere
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.record import Record
from drpai_qat.core.progress import Silent
from drpai_qat.core.sqnr import sqnr_db
from drpai_qat.core.workers import Sharing
from tests.calibration.float_models import attention, frames, make, residual
from tests.reference import reference

SPIKES = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,8,24,24] x) => (float[1,4,24,24] y)
{ r = Relu (x)
  y = Conv <kernel_shape=[1,1]> (r, w) }
"""


def spikes():
    """A layer that looks at the one channel whose values are rare and large."""
    model = make(SPIKES, w=(4, 8, 1, 1))
    (weights,) = model.graph.initializer
    values = np.frombuffer(weights.raw_data, np.float32).reshape(4, 8, 1, 1).copy()
    values[:, 1:] *= 0.01
    weights.raw_data = values.tobytes()
    return model


def with_spikes(count, seed=0):
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        x = generator.normal(0, 1, (1, 8, 24, 24)).astype(np.float32)
        x[:, 0] = np.where(generator.uniform(size=(24, 24)) < 0.005, generator.uniform(20, 60, (24, 24)), 0)
        found.append({"x": x})
    return found


def folded(model):
    return preprocess.preprocess(model, may_be_float=True).model


def quantized(model, data, method, **how):
    recipe = Recipe(method=method, equalizes=False, corrects=False)
    found = quantize_float(folded(model), data, recipe, Silent(), **how)
    preprocess.validate(found.model)
    return found.model


def quality(made, source, samples):
    pairs = [(reference(made, one)[0], reference(source, one)[0]) for one in samples]
    return sqnr_db(*(np.stack(side) for side in zip(*pairs, strict=True)))


def test_what_a_layer_looks_at_is_not_clipped():
    model, samples = spikes(), with_spikes(16, seed=1)
    mse, layer = (quality(quantized(model, with_spikes(32), method), model, samples) for method in ("mse", "layer"))
    assert layer > mse + 2
    few = with_spikes(12)  # too few to leave some out
    assert quantized(model, few, "layer") == quantized(model, few, "mse")


@pytest.mark.parametrize(("network", "everywhere"), [(residual, False), (residual, True), (attention, False)])
def test_any_network(network, everywhere):
    model = network()
    made = quantized(model, frames(model, 24), "layer", everywhere=everywhere)
    assert quality(made, model, frames(model, 6, seed=9)) > 25


def test_what_reads_a_tensor():
    """Up to layers' results and to tensors with a grid; what else goes in is known by name."""
    graph = gs.import_onnx(folded(residual()))
    stops = {site.name for site in sites_everywhere(graph)}
    found = _reading(graph, "r1", stops)
    assert [node.op for node in found.nodes] == ["Conv", "Add", "Relu"]
    assert (found.others, found.wanted) == (("c3",), {"c2": 1, "r3": None})


def test_recorded_and_shared(tmp_path):
    data, record = frames(residual(), 24), Record(tmp_path, "data.npz")
    first = quantized(residual(), data, "layer", record=record, sharing=Sharing(2))
    assert first == quantized(residual(), data, "layer")
    recipe = Recipe(method="layer", equalizes=False, corrects=False)
    again = quantize_float(folded(residual()), data, recipe, Silent(), record=record)
    assert again.reused
    assert again.model == first
