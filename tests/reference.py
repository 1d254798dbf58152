"""What tests compare with: onnxruntime with its optimisations off, in a session of the tests' own.

Optimised, it would move roundings and quantize activations that the model keeps in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray


def reference(source: onnx.ModelProto, feeds: Mapping[str, NDArray]) -> list[NDArray]:
    """The model's outputs, in order."""
    return _session(source).run(None, dict(feeds))


def reference_by_batch(source: onnx.ModelProto, x: NDArray, batch: int = 1) -> list[NDArray]:
    """The outputs of a model of one input over many samples; what fills no batch is left out.

    Args:
        batch: for a model that leaves it open.
    """
    session = _session(source)
    (given,) = session.get_inputs()
    batch = given.shape[0] if isinstance(given.shape[0], int) else batch
    runs = [session.run(None, {given.name: x[at : at + batch]}) for at in range(0, len(x) - batch + 1, batch)]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def _session(source: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # the tests themselves take all cores
    options.log_severity_level = 3
    return ort.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
