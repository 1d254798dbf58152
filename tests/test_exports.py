"""Every real export in tests/models through the public way: compile, check layer by layer, load the folder, run.

Fidelity: folding changes no bit of the outputs in onnxruntime; fed with the reference's integers, every quantized
tensor has the reference's. End to end, at least 30 dB to the framework's own output, or within 1 dB of what
onnxruntime with optimisations off gets from the same file.
Integers: every layer with trained weights and an input with a range computes in integers; what stays in float32 is
listed here, with the reason that the report must give.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import drpai_qat
from drpai_qat.core.sqnr import sqnr_db
from preprocess import reference_model
from tests.reference import reference_by_batch

MODELS = Path(__file__).parent / "models"
FLOOR_DB = 30.0

NO_INPUT_RANGE, NO_WEIGHTS = "its input has no trained range", "its weights were not quantized in training"
FLOAT_LAYERS = {
    # DRP-AI recipe: the network's input has no range, so the first convolution has none to compute with.
    "pt_up_resnet": {"Conv": NO_INPUT_RANGE},
    "pt_up_yolo": {"Conv": NO_INPUT_RANGE},
    # Layers that training left in float32: part of the network, transposed convolutions, squeeze-and-excite gates.
    "pt_partial_resnet": {"Conv": NO_WEIGHTS, "Gemm": NO_WEIGHTS},
    "tf_partial_op13": {"Conv": NO_WEIGHTS, "Gemm": NO_WEIGHTS},
    "tf_partdense_op13": {"Conv": NO_WEIGHTS},
    "pt_fx_unet": {"ConvTranspose": NO_WEIGHTS},
    "mo_unet": {"ConvTranspose": "its weights were trained with scales along another axis than its output channels"},
    "nncf_mbv3": {"Conv": NO_WEIGHTS},
}

NAMES = sorted(path.stem for path in MODELS.glob("*.onnx"))


@pytest.mark.parametrize("name", NAMES)
def test_export_keeps_what_was_trained(name: str, tmp_path: Path) -> None:
    path = MODELS / f"{name}.onnx"
    data = np.load(MODELS / f"{name}.npz")
    framework = "tensorflow" if name.startswith("tf_") else "pytorch"
    report = drpai_qat.compile(path, qat_type=framework, output_dir=tmp_path / name, samples=1, check="layers")
    assert report.check is not None
    assert [one.max_error for one in report.check.fold] == [0.0] * len(report.check.fold)
    assert all(one.certified for one in report.check.folding or ())
    assert report.check.uncertified == ""

    network = drpai_qat.load(tmp_path / name)
    info = network.inputs[0]
    count = max(info.shape[0], min(len(data["x"]), 16) // info.shape[0] * info.shape[0])
    x = data["x"][:count].astype(np.float32).reshape(-1, *info.shape[1:])
    found = network.run({info.name: x})[network.outputs[0].name]
    y = data["y"][:count].reshape(found.shape)
    theirs = reference_by_batch(reference_model(onnx.load(path)), x, info.shape[0])[0]
    got, best = sqnr_db(found, y), sqnr_db(theirs.reshape(found.shape), y)
    assert got >= min(FLOOR_DB, best - 1.0), f"{got:.1f} dB; onnxruntime, unoptimised: {best:.1f} dB"

    floats = {(one.op, one.reason) for one in report.coverage if one.macs and one.compute not in ("int8", "int16")}
    assert floats == set(FLOAT_LAYERS.get(name, {}).items())
