"""The reference: onnxruntime with all graph optimisations off, so that every fake-quant is computed as exported.

Its default optimisations move and merge QuantizeLinear nodes, and its int8 kernels saturate on AVX2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from drpai_qat.core.errors import ModelError
from drpai_qat.core.text import one_line

_QUIET = 4  # fatal only: what concerns the user reaches him through our message


class Reference:
    """A model in onnxruntime, optimisations off."""

    def __init__(self, model: Path | onnx.ModelProto, name: str, *, threads: int = 0, optimized: bool = False) -> None:
        """Start a session.

        Args:
            model: a file (its external data beside it) or a model of less than 2 GB.
            name: for messages.
            threads: of one operator; 0: one a core.
            optimized: let onnxruntime fuse: for float models, whose values that changes in their last bits only.
        Raises: ModelError: onnxruntime can't load it.
        """
        self.name = name
        options = ort.SessionOptions()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = False  # a few runs only: give memory back
        content = str(model) if isinstance(model, Path) else model.SerializeToString()
        if isinstance(content, str) and content != content.encode(errors="replace").decode():
            raise ModelError(
                f"{one_line(name)}: its path is no text in UTF-8, and onnxruntime opens no other: rename it"
            )
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types share no exported base
            raise ModelError(f"{name}: onnxruntime can't load it: {message(error)}") from None
        self.inputs: list[str] = [one.name for one in self._session.get_inputs()]
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray], outputs: Sequence[str] | None = None) -> dict[str, NDArray]:
        """Run once.

        Args:
            feeds: array by input name.
            outputs: names wanted; None: all.
        Raises: ModelError: onnxruntime can't run it.
        """
        names = list(self.outputs if outputs is None else outputs)
        options = ort.RunOptions()
        options.log_severity_level = _QUIET
        try:
            values: list[Any] = self._session.run(names, dict(feeds), options)
        except Exception as error:  # as above
            raise ModelError(f"{self.name}: onnxruntime can't run it: {message(error)}") from None
        return dict(zip(names, values, strict=True))


def message(error: Exception) -> str:
    """The part of onnxruntime's message that speaks of the model: "[ONNXRuntimeError] : 1 : FAIL : ..." """
    text = one_line(error)
    return text.rsplit(" : ", 1)[-1] if text.startswith("[ONNXRuntimeError]") else text
