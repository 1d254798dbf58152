"""A model of any Python signature as one that takes tensors and returns a tuple of tensors, which is all ONNX knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drpai_qat.core.errors import ModelError


def unwrapped(model: Any) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile.

    Raises: ModelError: no module, or a TorchScript one, whose fake-quant can't be reached any more.
    """
    if isinstance(model, Mapping):
        raise ModelError("this is a state dict: build the model, prepare it as for training and load the state into it")
    if not isinstance(model, nn.Module):
        raise ModelError(f"a torch.nn.Module can be exported, this is {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("this is a TorchScript model: export the nn.Module that it was made from")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)  # torch.compile's wrapper
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


class Interface(nn.Module):  # type: ignore[misc]
    """`model` with flat inputs and outputs.

    Args:
        model: the module to call.
        example: a tensor, a sequence of positional arguments, or a mapping of keyword arguments. Arrays count as
            tensors; what is neither (None, a flag) is passed on as it is and becomes part of the exported graph.
    Attributes:
        tensors: the example's tensors on the CPU, floating ones in float32.
        names: of the keyword arguments; None for positional ones.
    Raises: ModelError: no tensor in the example.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.model = model
        self.training = False  # as the model is; train() and eval() would go down to it, and torch.export's refuse them
        if isinstance(example, Tensor | np.ndarray):
            example = (example,)
        if not isinstance(example, Mapping | Sequence) or isinstance(example, str):
            raise ModelError(f"example_inputs is {type(example).__name__}: give a tensor, a tuple or a dict of tensors")
        self._keywords = isinstance(example, Mapping)
        items = list(example.items() if isinstance(example, Mapping) else enumerate(example))
        self._fixed = {key: value for key, value in items if not isinstance(value, Tensor | np.ndarray)}
        self._order = [key for key, _ in items]
        given = {key: torch.as_tensor(value) for key, value in items if key not in self._fixed}
        if not given:
            raise ModelError("example_inputs holds no tensor")
        self.names = [str(key) for key in given] if self._keywords else None
        self.tensors = tuple(_as_exported(tensor) for tensor in given.values())

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The model's tensors in the order in which it returns them."""
        return tuple(tensor for _, tensor in _flattened(self._call(tensors), ""))

    def output_names(self) -> list[str]:
        """Names of the outputs: of a dict its keys, else `output` or `output_0`, `output_1` ..."""
        paths = [path for path, _ in _flattened(self._call(self.tensors), "")]
        if not paths:
            raise ModelError("the model returns no tensor")
        named = [path.removeprefix("_") for path in paths]
        if len(paths) == 1:
            return ["output" if named[0].isdigit() else named[0] or "output"]
        return [f"output_{name}" if name[0].isdigit() else name for name in named]

    def _call(self, tensors: Sequence[Tensor]) -> Any:
        remaining = iter(tensors)
        values = {key: self._fixed[key] if key in self._fixed else next(remaining) for key in self._order}
        return self.model(**values) if self._keywords else self.model(*values.values())


def _as_exported(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _flattened(result: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) of every tensor in nested dicts, tuples and lists; None is left out."""
    if isinstance(result, Tensor):
        yield path, result
    elif isinstance(result, Mapping | tuple | list):
        items = result.items() if isinstance(result, Mapping) else enumerate(result)
        for key, value in items:
            yield from _flattened(value, f"{path}_{key}")
    elif result is not None:
        raise ModelError(
            f"the model returns {type(result).__name__}; tensors, and tuples, lists and dicts of them, can be exported"
        )
