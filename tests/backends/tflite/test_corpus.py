"""Real exports: the file computes what the canonical model does, layer by layer and at its outputs.

Each layer is fed the reference's integers. One step of difference is a rounding: both sets of kernels compute in fixed
point, and the plain ones round twice.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from drpai_qat.backends.tflite.observed import observed_ranges
from drpai_qat.backends.tflite.running import WrittenNetwork
from drpai_qat.backends.tflite.writer import LiteModel
from drpai_qat.check.layers import cut_at_quantizers, fed, reference_run
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.runtimes.tflite import LiteNetwork
from tests.backends.tflite.running import BOTH, MODELS, canonical, feeds_of, written_or_island

SAMPLES = 4
NAMES = sorted(path.stem for path in MODELS.glob("*.onnx"))

# Why these can't be all int8.
ISLANDS = {
    "mo_unet": "scale per input channel",
    "nncf_mbv3": "no trained grid",  # squeeze-and-excite layers have float weights
    "pt_fx_unet": "no trained grid",  # torch's FX leaves transposed convolutions in float32
    "pt_partial_resnet": "no trained grid",
    "pt_stub_vit": "no layer normalization",
    "tf_att_op13": "no layer normalization",
    "tf_partdense_op13": "no trained grid",
    "tf_partial_op13": "no trained grid",
    "tf_w8asympc_op15": "have a zero point",
}
# 2,000 integers in all, of two matrix products, a mean and a 10-class layer: plain kernels lift 15 of them.
EQUAL = {("tf_att_op13", True): 0.99}
# Deep, or ending in float32: single steps of the layers before add up.
FURTHER = {"pt_up_yolo": 16, "tf_partial_op13": 8}


def _on_the_input_grid(made: LiteModel, feeds: list[dict[str, NDArray]]) -> list[dict[str, NDArray]]:
    """Samples that int8 inputs hold exactly: what is rounded before the network is not the network's error."""
    return [
        {
            info.name: one[info.name] if info.quantization is None
            else info.quantization.dequantize(info.quantization.quantize(one[info.name]))
            for info in made.inputs
        }
        for one in feeds
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@BOTH
def test_layers_compute_the_reference_integers(name: str, plain: bool) -> None:
    source, feeds = canonical(name), feeds_of(name, SAMPLES)
    ranges = observed_ranges(source, feeds)
    whole, reason = written_or_island(source, ranges=ranges)
    assert ISLANDS.get(name, "") in reason
    assert bool(reason) == (name in ISLANDS)
    cut = cut_at_quantizers(source)
    reference = reference_run(source, cut, name)
    pieces, _ = written_or_island(cut.model, ranges=ranges)
    network = WrittenNetwork(pieces, plain=plain)
    apart = []
    for one in _on_the_input_grid(whole, feeds):
        integers = reference(one)
        found = network.run(fed(cut, one, integers))
        apart += [np.abs(found[t].astype(np.int64) - integers[t].astype(np.int64)).reshape(-1) for t in cut.tensors]
    steps = np.concatenate(apart)
    assert steps.max() <= 1
    assert (steps == 0).mean() >= EQUAL.get((name, plain), 0.995)


@pytest.mark.parametrize("name", NAMES)
@BOTH
def test_outputs(name: str, plain: bool) -> None:
    source, feeds = canonical(name), feeds_of(name, SAMPLES)
    made, _ = written_or_island(source, ranges=observed_ranges(source, feeds))
    reference, network = Reference(source, name), WrittenNetwork(made, plain=plain)
    for one in _on_the_input_grid(made, feeds):
        wanted, found = reference.run(one), network.run(one)
        for info in made.outputs:
            y, expected = found[info.name], wanted[info.name]
            step = np.abs(expected).max() / 127 if info.quantization is None else float(info.quantization.scale)
            assert np.abs(y - expected).max() <= FURTHER.get(name, 4) * step + 1e-6
            if info.shape == (1, 10) and name not in FURTHER:
                # The class, unless two classes are within the steps that single roundings may move them.
                assert expected[0, y[0].argmax()] >= expected.max() - 2 * step


@pytest.mark.parametrize("name", NAMES)
def test_transposes_only_at_an_edge(name: str) -> None:
    source, feeds = canonical(name), feeds_of(name, 1)
    made, _ = written_or_island(source, ranges=observed_ranges(source, feeds))
    kinds = [kind for one in made.coverage for kind in one.operators]
    edges = 0 if name.startswith("tf_") else len(made.inputs) + len(made.outputs)
    heads = 8 if name == "pt_stub_vit" else 0  # queries, keys, values and results of two blocks
    assert kinds.count("TRANSPOSE") <= edges + heads


CONVERTED = sorted(path.stem for path in MODELS.glob("*.tflite"))


@pytest.mark.parametrize("name", CONVERTED)
@BOTH
def test_as_close_to_the_trained_model_as_tensorflow_converter(name: str, plain: bool) -> None:
    arrays = np.load(MODELS / f"{name}.npz")
    made, _ = written_or_island(canonical(name), edges="float32")
    trained = arrays["y"]
    errors = []
    for network in (LiteNetwork(made.content, plain=plain), LiteNetwork(MODELS / f"{name}.tflite", plain=plain)):
        (given,), (result,) = network.inputs, network.outputs
        y = np.concatenate([network.run({given.name: x.reshape(given.shape)})[result.name] for x in arrays["x"]])
        errors.append(float(np.abs(y - trained).mean()))
    assert errors[0] <= errors[1] * 1.001
