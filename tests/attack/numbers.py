"""Whether a compiled network computes what onnxruntime makes of the file itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_LEAST_DB = 24.0
"""On the first sample: the check asks for 30 dB over four, whose whole error may lie in one (10 log10 4 = 6 dB)."""
_LEAST_ELSEWHERE_DB = 20.0
"""On inputs that the command has not seen: ties fall where they may."""
ELSEWHERE = "on other inputs"
"""Begins what is said of them; the inputs lie in MOVED then."""
MOVED = "moved.npz"


def what_is_wrong(folder: Path) -> str:
    """What is wrong with the numbers of a network; "" if nothing.

    A network that amplifies single roundings is left to the certificate of its layers, which the report holds. One that
    was calibrated is held against its own ONNX file, not against the float model, from which it may differ.

    Args:
        folder: has m.onnx and out.
    """
    import onnxruntime as ort

    import drpai_qat

    report = json.loads((folder / "out" / "report.json").read_text())
    if report["check"]["amplified"]:
        return ""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    file = folder / ("out/model_int8.onnx" if report["calibration"] else "m.onnx")
    try:
        source = ort.InferenceSession(str(file), options)
    except Exception:  # a dialect that is translated: the command compared with the translation
        return ""
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    if any(one.type not in kinds for one in source.get_inputs()):
        return ""
    network = drpai_qat.load(folder / "out")
    feeds = {}
    for index, info in enumerate(network.inputs):
        stored = np.fromfile(folder / "out" / "interpreter_out" / f"input_{index}.bin", "<f4").reshape(info.shape)
        feeds[info.name] = stored if info.quantization else stored.astype(info.dtype)
    moved = {name: np.roll(values.reshape(-1), 101).reshape(values.shape) for name, values in feeds.items()}
    for given, least in ((feeds, _LEAST_DB), (moved, _LEAST_ELSEWHERE_DB)):
        taken = {one.name: given[one.name].astype(kinds[one.type]) for one in source.get_inputs() if one.name in given}
        try:
            wanted = dict(zip([one.name for one in source.get_outputs()], source.run(None, taken), strict=True))
        except Exception as error:
            return f"exit 0, and onnxruntime does not run it: {str(error)[:200]}"
        steps = {one.name: one.quantization for one in network.outputs if given is moved and one.quantization}
        told = _compared(
            network.run(given), wanted, least, {name: float(grid.scale.max()) for name, grid in steps.items()}
        )
        if told and given is moved:
            arrays: dict[str, Any] = moved
            np.savez(folder / MOVED, **arrays)
        if told:
            return told if given is feeds else f"{ELSEWHERE}, {told}"
    return ""


def _compared(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], least: float, steps: Mapping[str, float]
) -> str:
    """What differs, if anything.

    Args:
        steps: by name of the output, a difference that is a tie on the way: of a few steps in all, one is much in dB.
    """
    for name, theirs in wanted.items():
        if theirs.dtype.kind in "iu" and theirs.dtype.itemsize < 4:
            continue  # integers of a grid, which the network hands out as reals
        ours, reference = np.asarray(found[name], np.float64), np.asarray(theirs, np.float64)
        if ours.shape != reference.shape:
            return f"{name}: shape {ours.shape}, not {reference.shape}"
        if np.abs(ours - reference).max(initial=0) <= 1.001 * steps.get(name, 0):
            continue
        noise, size = np.square(ours - reference).sum(), np.square(reference).sum()
        if noise > 0 and not 10 * np.log10(max(size, 1e-300) / noise) >= least:
            return f"{name}: {10 * np.log10(max(size, 1e-300) / noise):.1f} dB"
    return ""
