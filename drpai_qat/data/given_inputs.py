"""Files of the user's as inputs of one network: arrays, raw values, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo, as_given
from drpai_qat.data.array_files import open_archive, open_array
from drpai_qat.data.fitting import rows, sets
from drpai_qat.data.image_files import UnreadableImageError, load_pixels
from drpai_qat.data.image_input import ImageInput, image_input, recorded_input
from drpai_qat.data.preprocessing import read_preprocessing


def read_inputs(
    paths: Sequence[Path],
    inputs: Sequence[TensorInfo],
    recorded: Mapping[str, Any] | None,
    preprocess: str | Path | Mapping[str, Any] | None = None,
) -> list[tuple[str, dict[str, NDArray]]]:
    """Sets of network inputs, each with the name of the file that it is from.

    Args:
        paths: .npz files with an array for each input; for a network with one input also .npy files, raw float32
            (.bin) and images, one or several samples in each; else one such file for each input, in their order.
        inputs: of the network; files hold reals where it takes integers of a grid.
        recorded: how an image becomes an input, as deploy.json has it.
        preprocess: value of --preprocess, which goes first.
    Raises: OptionError: a file can't be read, or does not fit the network.
    """
    inputs = [as_given(info) for info in inputs]
    if len(inputs) > 1 and not any(path.suffix == ".npz" for path in paths):
        if len(paths) != len(inputs):
            names = ", ".join(info.name for info in inputs)
            raise OptionError(
                f"-i: {len(paths)} files: give one for each input ({names}), in that order, or a .npz file"
            )
        each = {info.name: _one(path, info, recorded, preprocess) for path, info in zip(paths, inputs, strict=True)}
        name = ", ".join(path.name for path in paths)
        return [(name, found) for found in sets([each], inputs, f"-i {name}")]
    read = []
    for path in paths:
        where = f"-i {path}"
        if path.suffix == ".npz":
            arrays = {name: one.whole() for name, one in open_archive(path, where).items()}
            given: list[Any] = [arrays]
        else:
            given = [{inputs[0].name: _one(path, inputs[0], recorded, preprocess)}]
        found = list(sets(given, inputs, where))
        if not found:
            raise OptionError(f"{where} holds no sample")
        read += [(path.name if len(found) == 1 else f"{path.name} {at}", one) for at, one in enumerate(found)]
    return read


def _one(
    path: Path,
    info: TensorInfo,
    recorded: Mapping[str, Any] | None,
    preprocess: str | Path | Mapping[str, Any] | None,
) -> NDArray:
    """The samples in a file, along the first axis."""
    where = f"-i {path}"
    if not path.is_file():
        raise OptionError(f"{where}: no such file")
    if path.suffix == ".npy":
        return rows(open_array(path, where).whole(), info, where)
    if path.suffix == ".bin":
        return _raw(path, info, where)
    try:
        pixels = load_pixels(path)
    except UnreadableImageError as error:
        raise OptionError(f"{where}: {error}: give an image, a .npz, .npy or .bin file") from None
    array = _image(info, recorded, preprocess, where).array(pixels)
    return np.repeat(array[None], info.shape[0], axis=0)


def _image(
    info: TensorInfo,
    recorded: Mapping[str, Any] | None,
    preprocess: str | Path | Mapping[str, Any] | None,
    where: str,
) -> ImageInput:
    if preprocess is not None:
        return image_input([info], read_preprocessing(preprocess), where)
    if recorded is None or recorded.get("input", info.name) != info.name:
        raise OptionError(f"{where}: nothing records how an image becomes the network's input: give --preprocess")
    return recorded_input(recorded, [info], where)


def _raw(path: Path, info: TensorInfo, where: str) -> NDArray:
    try:
        values = np.fromfile(path, "<f4")
    except OSError as error:
        raise OptionError(f"{where}: can't be read: {error.strerror}") from None
    if not values.size or values.size % prod(info.shape):
        raise OptionError(f"{where} holds {values.size} float32 values: the network takes {list(info.shape)}")
    return rows(values.reshape(-1, *info.shape[1:]) if info.shape else values, info, where)
