"""TensorFlow Lite Micro, which microcontrollers run: the same files, in the package tflite-micro."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.backends.tflite.observed import observed_ranges
from drpai_qat.check.layers import cut_at_quantizers, fed, reference_run
from tests.backends.tflite.running import canonical, feeds_of, written_or_island
from tests.backends.tflite.test_corpus import NAMES

pytestmark = pytest.mark.slow

ARENA = 8 << 20
LACKS = {
    "pt_fx_unet": "RESIZE_BILINEAR",  # in 16 bits
    "pt_stub_vit": "GATHER",  # of a table in 16 bits
    "pt_up_yolo": "GATHER",
}


@pytest.mark.parametrize("name", NAMES)
def test_layers_compute_the_reference_integers(name: str) -> None:
    runtime = pytest.importorskip("tflite_micro", reason="the package tflite-micro is not installed").runtime
    source, feeds = canonical(name), feeds_of(name, 2)
    cut = cut_at_quantizers(source)
    made, _ = written_or_island(cut.model, ranges=observed_ranges(source, feeds))
    if name in LACKS:
        assert any(LACKS[name] in one.operators for one in made.coverage)
        with pytest.raises(RuntimeError):
            runtime.Interpreter.from_bytes(made.content, arena_size=ARENA).invoke()
        return
    micro, reference = runtime.Interpreter.from_bytes(made.content, arena_size=ARENA), reference_run(source, cut, name)
    apart = []
    for one in feeds:
        rounded = {
            info.name: one[info.name] if info.quantization is None
            else info.quantization.dequantize(info.quantization.quantize(one[info.name]))
            for info in made.inputs if info.name in one
        }  # fmt: skip
        integers = reference(rounded)
        given = fed(cut, rounded, integers)
        for index, info in enumerate(made.inputs):
            value = given[info.name]
            if info.name in made.integers:
                value = (value.astype(np.int64) - made.integers[info.name][1]).astype(info.dtype)
            elif info.quantization is not None:
                value = info.quantization.quantize(value)
            micro.set_input(value, index)
        micro.invoke()
        for index, info in enumerate(made.outputs):
            if info.name in made.integers:
                found = micro.get_output(index).astype(np.int64) + made.integers[info.name][1]
                apart.append(np.abs(found - integers[info.name].astype(np.int64)).reshape(-1))
    steps = np.concatenate(apart)
    assert steps.max() <= 1
    assert (steps == 0).mean() >= 0.99
