"""Whose fault a failure is: every error names the model's file, and onnxruntime says whether it is the file itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from drpai_qat.core.errors import LoweringError, ModelError, QuantizationError
from drpai_qat.runtimes.onnxruntime import Reference


@contextlib.contextmanager
def naming(model: Path, static: onnx.ModelProto | None = None) -> Iterator[None]:
    """Put the file's name in front of errors that concern the model.

    Args:
        static: the file's model with static inputs, which onnxruntime is asked about where something broke; None: it
            is asked whether it loads the file.
    Raises: ModelError: something broke unexpectedly, and onnxruntime refuses the model too.
    """
    try:
        yield
    except (ModelError, QuantizationError, LoweringError) as error:
        if model.name in str(error):
            raise
        raise type(error)(f"{model.name}: {error}", see=error.see) from error
    except (OSError, MemoryError):  # the machine's
        raise
    except Exception:
        reference = Reference(model, model.name)
        if static is not None:
            reference.run(_zeros(static, reference.inputs))
        raise


def _zeros(static: onnx.ModelProto, names: list[str]) -> dict[str, np.ndarray]:
    """Zeros for inputs."""
    types = {one.name: one.type.tensor_type for one in static.graph.input}
    shapes = {name: [dim.dim_value for dim in types[name].shape.dim] for name in names}
    dtype = onnx.helper.tensor_dtype_to_np_dtype
    return {name: np.zeros(shape, dtype(types[name].elem_type)) for name, shape in shapes.items()}
