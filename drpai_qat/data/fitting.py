"""Samples in whatever form a user's code or file gives them, as sets of network inputs.

A generator that was written for TFLite yields lists of arrays, often channels-last and one sample at a time; a file
holds thousands along its first axis. Each becomes rows along the first axis, and rows become sets of the network's
batch. A rest smaller than a batch is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo, takes
from drpai_qat.core.text import listed, one_line


def sets(given: Iterable[Any], inputs: Sequence[TensorInfo], where: str) -> Iterator[dict[str, NDArray]]:
    """Sets of network inputs, made of samples one after the other.

    Args:
        given: each a mapping from input names to arrays, a list of arrays in the order of the inputs, or an array.
        inputs: of the network.
        where: option and value, for messages.
    Raises: OptionError: a sample does not fit the network.
    """
    waiting: dict[str, list[NDArray]] = {info.name: [] for info in inputs}
    emitted = 0
    for index, item in enumerate(given):
        arrays = named(item, inputs, f"{where}: sample {index}")
        for info in inputs:
            waiting[info.name].extend(rows(arrays[info.name], info, f"{where}: sample {index}"))
        while all(len(waiting[info.name]) >= _batch(info) for info in inputs):
            yield {info.name: _taken(waiting[info.name], info) for info in inputs}
            emitted += 1
    if not emitted and any(waiting.values()):  # fewer than a batch in all: the last one is repeated
        for info in inputs:
            found = waiting[info.name]
            found.extend(found[-1:] * (_batch(info) - len(found)))
        yield {info.name: _taken(waiting[info.name], info) for info in inputs}


def named(item: Any, inputs: Sequence[TensorInfo], where: str) -> dict[str, NDArray]:
    """The arrays of one sample by name of the input.

    Raises: OptionError: one is missing or unknown, or there are more or fewer than the network has inputs.
    """
    names = [info.name for info in inputs]
    if isinstance(item, Mapping):
        by_name = {_plain(name): value for name, value in item.items()}
        found = {name: item[name] if name in item else by_name.get(_plain(name)) for name in names}
        if len(names) == len(item) == 1:
            found = {names[0]: next(iter(item.values()))}
        missing = [name for name, value in found.items() if value is None]
        if missing or len(item) > len(names):
            raise OptionError(
                f"{where} has {one_line(listed([str(name) for name in item]))}: the network's inputs are "
                f"{one_line(listed(names))}"
            )
        return {name: as_array(value, where) for name, value in found.items()}
    if isinstance(item, list | tuple):
        if len(item) != len(names):
            raise OptionError(f"{where} is a {type(item).__name__} of {len(item)}: the network has {len(names)} inputs")
        return {name: as_array(value, where) for name, value in zip(names, item, strict=True)}
    if len(names) > 1:
        raise OptionError(f"{where} is one array: the network's inputs are {one_line(listed(names))}")
    return {names[0]: as_array(item, where)}


def _plain(name: object) -> str:
    """An input's name without what converters add: serving_default_x:0 is x."""
    return str(name).removesuffix(":0").removeprefix("serving_default_")


def as_array(value: Any, where: str) -> NDArray:
    """An array, or a framework's tensor, as an array of numbers.

    Raises: OptionError: it is none.
    """
    if hasattr(value, "detach"):  # a PyTorch tensor, of whatever device
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except Exception as error:  # any code of the user's
        raise OptionError(f"{where} is no array: {one_line(error)}") from None
    if array.dtype.kind not in "biuf":
        raise OptionError(f"{where} holds {type(value).__name__}, not an array of numbers")
    return array


def rows(array: NDArray, info: TensorInfo, where: str) -> NDArray:
    """Samples of one input along the first axis, (count, *info.shape[1:]), in the input's type.

    Raises: OptionError: shape or type are not the input's, or a value is no number.
    """
    at, wanted = f"{where}: input {one_line(info.name)!r}", np.dtype(info.dtype)
    if not takes(array, wanted):
        raise OptionError(f"{at} is {array.dtype}, not {wanted}: convert it as in training")
    found = _shaped(array, info.shape)
    if found is None:
        raise OptionError(f"{at} has shape {list(array.shape)}: the network takes {list(info.shape)}")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(found, wanted)
    if wanted.kind == "f" and not np.isfinite(found).all():
        raise OptionError(f"{at} holds NaN or infinite values: look at what made them")
    return found


def _shaped(array: NDArray, shape: tuple[int, ...]) -> NDArray | None:
    """The same numbers as rows; None if they are not samples of such an input."""
    row = shape[1:]
    if not shape:
        return array.reshape(1) if array.size == 1 else None
    if array.ndim == len(shape) and array.shape[1:] == row:
        return array
    if array.shape == row:
        return array[None]
    if array.ndim == len(shape) + 1 and array.shape[1:] == shape:
        return array.reshape(-1, *row)
    if len(row) == 3 and array.ndim in (3, 4):  # the other order of channels
        for start, end in ((-1, -3), (-3, -1)):
            moved = np.moveaxis(array, start, end)
            if moved.shape[-3:] == row:
                return moved.reshape(-1, *row)
    counted = array.shape[1:]
    if array.ndim and prod(counted) == prod(row) and (len(row) == 1 or _without_ones(counted) == _without_ones(row)):
        return array.reshape(-1, *row)  # a vector of pixels, or an axis of one channel
    return None


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _batch(info: TensorInfo) -> int:
    return info.shape[0] if info.shape else 1


def _taken(waiting: list[NDArray], info: TensorInfo) -> NDArray:
    """The next set of one input, which leaves the list."""
    count = _batch(info)
    found = np.stack(waiting[:count]).reshape(info.shape)
    del waiting[:count]
    return found
