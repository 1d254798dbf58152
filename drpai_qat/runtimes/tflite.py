"""Runs a TFLite file in LiteRT's interpreter (the package ai-edge-litert)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError, MissingExtraError
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.quiet import quiet
from drpai_qat.core.tensor_info import TensorInfo, as_fed, as_reals
from drpai_qat.core.text import one_line


class LiteNetwork:
    """A TFLite file in memory. Threads may share it: they run one after the other.

    Attributes:
        inputs, outputs: name (the signature's where there is one), shape, dtype and grid of each.
    """

    def __init__(self, model: Path | bytes, *, plain: bool = False, threads: int = 1, keep_all: bool = False) -> None:
        """Load a file.

        Args:
            model: the file, or its content.
            plain: LiteRT's own kernels instead of XNNPACK's.
            keep_all: intermediate tensors can be read after a run; without it they hold stale data.
        Raises: DeploymentError: LiteRT can't load it. MissingExtraError: LiteRT is not installed.
        """
        try:
            from ai_edge_litert import interpreter as litert
        except ImportError as error:
            raise MissingExtraError(f"{error}: TFLite files run in LiteRT: pip install 'drpai-qat[tflite]'") from None
        kinds = litert.OpResolverType
        where = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
        try:
            with quiet():  # "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
                self._interpreter = litert.Interpreter(
                    **where,
                    num_threads=threads,
                    experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else kinds.AUTO,
                    experimental_preserve_all_tensors=keep_all,
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            name = model.name if isinstance(model, Path) else "the TFLite file"
            raise DeploymentError(f"{name}: LiteRT can't load it: {one_line(error)}") from None
        self._turn = threading.Lock()
        names = self._names()
        self._inputs = [(one["index"], _info(one, names)) for one in self._interpreter.get_input_details()]
        self._outputs = [(one["index"], _info(one, names)) for one in self._interpreter.get_output_details()]
        self.inputs = tuple(info for _, info in self._inputs)
        self.outputs = tuple(info for _, info in self._outputs)

    def _names(self) -> dict[int, str]:
        """The signature's name of each input and output; TensorFlow's tensors are called serving_default_x:0."""
        names: dict[int, str] = {}
        for side in ("inputs", "outputs"):
            for signature in self._interpreter._get_full_signature_list().values():
                names.update({index: name for name, index in signature.get(side, {}).items()})
        return names

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Run with reals.

        Args:
            feeds: float32 for each input name (rounded to the input's grid where it has one), or integers of its type;
                a longer batch is run piece by piece.
        Returns: float32 for each output name.
        Raises: DeploymentError: an input is missing, or has another shape or type.
        """
        pieces = {len(feeds[one.name]) // one.shape[0] for one in self.inputs if one.name in feeds and one.shape}
        count = pieces.pop() if len(pieces) == 1 else 1
        if count < 2:
            return self._run_once(feeds)
        parts = {one.name: np.split(np.asarray(feeds[one.name]), count) for one in self.inputs}
        results = [self._run_once({name: part[i] for name, part in parts.items()}) for i in range(count)]
        return {one.name: np.concatenate([result[one.name] for result in results]) for one in self.outputs}

    def _run_once(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        integers = self.run_integers(feeds)
        return {info.name: as_reals(integers[info.name], info) for info in self.outputs}

    def run_integers(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Run once; the outputs as the file has them."""
        with self._turn:
            return self._run_integers(feeds)

    def _run_integers(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        for index, info in self._inputs:
            if info.name not in feeds:
                raise DeploymentError(f"input {info.name!r} is missing")
            value = as_fed(np.asarray(feeds[info.name]), info)
            if value.shape != info.shape or value.dtype != info.dtype:
                raise DeploymentError(
                    f"input {info.name!r} is {value.dtype} {list(value.shape)}; the file wants {info.dtype} "
                    f"{list(info.shape)}"
                )
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()
        return {info.name: self._interpreter.get_tensor(index) for index, info in self._outputs}

    def tensor(self, name: str) -> NDArray:
        """An intermediate tensor after a run, by its name in the file; needs `keep_all`."""
        for one in self._interpreter.get_tensor_details():
            if one["name"] == name:
                return self._interpreter.get_tensor(one["index"])
        raise DeploymentError(f"no tensor {name!r} in the file")

    def tensors(self) -> dict[str, QuantParams | None]:
        """Grid of every tensor by name, weights included."""
        return {one["name"]: _grid(one) for one in self._interpreter.get_tensor_details()}


def _info(details: dict[str, Any], names: Mapping[int, str]) -> TensorInfo:
    name = names.get(details["index"], details["name"])
    dtype = np.dtype(details["dtype"]).name
    return TensorInfo(name, tuple(int(d) for d in details["shape"]), dtype, _grid(details))


def _grid(details: dict[str, Any]) -> QuantParams | None:
    grid = details["quantization_parameters"]
    dtype = np.dtype(details["dtype"])
    if not len(grid["scales"]) or dtype.kind not in "iu":
        return None
    axis = int(grid["quantized_dimension"]) if len(grid["scales"]) > 1 else None
    return QuantParams.of(grid["scales"], grid["zero_points"], dtype, axis=axis, where=str(details["name"]))
