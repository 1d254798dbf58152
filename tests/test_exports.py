"""Every real export in tests/models through the public way: compile, load the folder, run, compare with the framework.

Fidelity: at least 30 dB to the framework's own output, or within 1 dB of what onnxruntime with optimisations off gets
from the same file. Integers: every layer with trained weights and an input with a range computes in integers; what
stays in float32 is listed here, with the reason that the report must give.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import drpai_qat
from preprocess import reference_model

MODELS = Path(__file__).parent / "models"
FLOOR_DB = 30.0
REFUSED = {"brev_qonnx": "QONNX"}

NO_INPUT_RANGE, NO_WEIGHTS = "its input has no trained range", "its weights have no integer grid per output channel"
FLOAT_LAYERS = {
    # DRP-AI recipe: the network's input has no range, so the first convolution has none to compute with.
    "pt_up_resnet": {"Conv": NO_INPUT_RANGE},
    "pt_up_yolo": {"Conv": NO_INPUT_RANGE},
    # Layers that training left in float32: part of the network, transposed convolutions, squeeze-and-excite gates.
    "pt_partial_resnet": {"Conv": NO_WEIGHTS, "Gemm": NO_WEIGHTS},
    "tf_partial_op13": {"Conv": NO_WEIGHTS, "Gemm": NO_WEIGHTS},
    "tf_partdense_op13": {"Conv": NO_WEIGHTS},
    "pt_fx_unet": {"ConvTranspose": NO_WEIGHTS},
    "nncf_mbv3": {"Conv": NO_WEIGHTS},
}
NAMES = sorted(path.stem for path in MODELS.glob("*.onnx"))


def _sqnr_db(found: np.ndarray, reference: np.ndarray) -> float:
    noise = float(np.square(found.astype(np.float64) - reference).sum())
    return float("inf") if noise == 0 else 10 * np.log10(float(np.square(reference, dtype=np.float64).sum()) / noise)


def _onnxruntime(path: Path, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = reference_model(onnx.load(path))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    step = shape[0]
    return np.concatenate([session.run(None, {name: x[i : i + step]})[0] for i in range(0, len(x), step)])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_export_keeps_what_was_trained(name: str, tmp_path: Path) -> None:
    path = MODELS / f"{name}.onnx"
    data = np.load(MODELS / f"{name}.npz")
    framework = "tensorflow" if name.startswith("tf_") else "pytorch"
    report = drpai_qat.compile(path, qat_type=framework, output_dir=tmp_path / name, samples=1, check="none")
    network = drpai_qat.load(tmp_path / name)
    info = network.inputs[0]
    count = max(info.shape[0], min(len(data["x"]), 16) // info.shape[0] * info.shape[0])
    x = data["x"][:count].astype(np.float32).reshape(-1, *info.shape[1:])
    found = network.run({info.name: x})[network.outputs[0].name]
    y = data["y"][:count].reshape(found.shape)
    got, theirs = _sqnr_db(found, y), _sqnr_db(_onnxruntime(path, x, info.shape).reshape(found.shape), y)
    assert got >= min(FLOOR_DB, theirs - 1.0), f"{got:.1f} dB; onnxruntime, unoptimised: {theirs:.1f} dB"

    floats = {(one.op, one.reason) for one in report.coverage if one.macs and one.compute not in ("int8", "int16")}
    assert floats == set(FLOAT_LAYERS.get(name, {}).items())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_dialects_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(drpai_qat.core.errors.ModelError, match=REFUSED[name]):
        drpai_qat.compile(MODELS / f"{name}.onnx", qat_type="pytorch", output_dir=tmp_path / name)
    assert not (tmp_path / name).exists()
