"""What tests compare with: onnxruntime with its optimisations off, one thread: the tests themselves take all cores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.runtimes.onnxruntime import Reference


def reference(source: onnx.ModelProto, feeds: Mapping[str, NDArray]) -> list[NDArray]:
    """The model's outputs, in order."""
    return list(_session(source).run(feeds).values())


def reference_by_batch(source: onnx.ModelProto, x: NDArray, batch: int = 1) -> list[NDArray]:
    """The outputs of a model of one input over many samples; what fills no batch is left out.

    Args:
        batch: for a model that leaves it open.
    """
    session = _session(source)
    (name,) = session.inputs
    batch = next(one.type.tensor_type.shape.dim[0].dim_value for one in source.graph.input if one.name == name) or batch
    runs = [session.run({name: x[at : at + batch]}) for at in range(0, len(x) - batch + 1, batch)]
    return [np.concatenate(parts) for parts in zip(*(run.values() for run in runs), strict=True)]


def _session(source: onnx.ModelProto) -> Reference:
    return Reference(source, "the tests' model", threads=1)
