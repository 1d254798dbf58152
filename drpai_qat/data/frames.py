"""Sets of network inputs, one after the other: images, arrays in files, or what a function yields.

Few are held in memory at a time, so it does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.core.text import one_line
from drpai_qat.data.array_files import ArrayFile, open_archive, open_array
from drpai_qat.data.fitting import sets
from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.image_files import Skipped, find_files, pillow, skipped_text
from drpai_qat.data.image_input import ImageInput, image_input
from drpai_qat.data.image_stream import PreparedImages
from drpai_qat.data.preprocessing import DEFAULT, read_preprocessing
from drpai_qat.data.samples import make_sample
from drpai_qat.data.user_functions import is_function_name, items, load_function

RANDOM_FRAMES = 8
"""Frames where neither a number nor data is given."""


class Frames(Protocol):
    """Sets of network inputs, one after the other; iterating again starts anew."""

    @property
    def name(self) -> str:
        """What the user gave, for reports."""

    @property
    def count(self) -> int | None:
        """How many there are, or fewer where files turn out damaged; None: not known before they end."""

    def __iter__(self) -> Iterator[dict[str, NDArray]]:
        """By name of the network input, in its shape and type.

        Raises: OptionError: one does not fit the network, can't be read, or there is none.
        """

    def notes(self) -> tuple[str, ...]:
        """What a report should tell of the last pass: files that were skipped, and why."""


def open_frames(options: FrameOptions, inputs: Sequence[TensorInfo]) -> Frames | None:
    """The frames that the user gave; None if there are none.

    Args:
        inputs: of the network.
    Raises:
        OptionError: a file or function is missing, or not for this network.
        MissingExtraError: images are given, and Pillow is not installed.
    """
    if options.images is not None:
        return _open_images(options, inputs)
    if options.calibration is None:
        return None
    given, inputs = options.calibration, tuple(inputs)
    if not isinstance(given, str | os.PathLike):
        return _from_function(given, getattr(given, "__name__", type(given).__name__), inputs, options.num_frame)
    if is_function_name(str(given)):
        return _from_function(load_function(str(given), "--calibration"), str(given), inputs, options.num_frame)
    return _open_arrays(Path(given), inputs, options.num_frame)


def chosen_preprocessing(options: FrameOptions, inputs: Sequence[TensorInfo]) -> ImageInput | None:
    """How images become the network's input, as deploy.json records it; None if the options do not speak of images.

    Raises: OptionError: as open_frames.
    """
    if options.images is None and options.preprocess is None:
        return None
    found = read_preprocessing(options.preprocess or DEFAULT)
    if options.images is None:
        return image_input(inputs, found, f"--preprocess {_shown(options.preprocess)}")
    return image_input(inputs, found, f"--images {options.images}")


@dataclass(frozen=True, eq=False)
class RandomFrames:
    """Random frames, for want of data; see `Frames`. What they calibrate is not to be trusted."""

    model: onnx.ModelProto
    count: int = RANDOM_FRAMES
    seed: int = 0
    name: str = "random"

    def __iter__(self) -> Iterator[dict[str, NDArray]]:
        for index in range(self.count):
            yield make_sample(self.model, index, self.seed)

    def notes(self) -> tuple[str, ...]:
        """See Frames."""
        return ()


@dataclass(frozen=True, eq=False)
class _Given:
    """What `read` yields, as sets of inputs."""

    name: str
    count: int | None
    inputs: tuple[TensorInfo, ...]
    where: str
    read: Callable[[], Iterable[Any]]
    most: int | None
    told: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, NDArray]]:
        self.told.clear()
        found = False
        for one in islice(sets(self.read(), self.inputs, self.where), self.most):
            found = True
            yield one
        if not found:
            raise OptionError(f"{self.where}: {'; '.join(self.told) or 'no sample in it'}: nothing to go on with")

    def notes(self) -> tuple[str, ...]:
        """See Frames."""
        return tuple(self.told)


def _open_images(options: FrameOptions, inputs: Sequence[TensorInfo]) -> Frames:
    folder, where = Path(str(options.images)), f"--images {options.images}"
    files = find_files(folder, "--images")
    pillow()
    taken = chosen_preprocessing(options, inputs)
    assert taken is not None
    batch = taken.info.shape[0]
    count = max(len(files) // batch, 1)
    most = count if options.num_frame is None else min(options.num_frame, count)
    told: list[str] = []
    images = PreparedImages(_spread(files, most * batch), folder, taken.array)

    def read() -> Iterator[NDArray]:
        skipped: list[Skipped] = []
        told.clear()
        for one in images:
            if isinstance(one, Skipped):
                skipped.append(one)
                told[:] = [skipped_text(skipped)]
            else:
                yield one

    return _Given(folder.name or str(folder), most, (taken.info,), where, read, most, told)


def _spread(files: list[Path], count: int) -> list[Path]:
    """Files spread evenly over all, since folders are sorted by class; then the others, for those that are damaged."""
    chosen = [files[index * len(files) // count] for index in range(min(count, len(files)))]
    taken = set(chosen)
    return [*chosen, *(file for file in files if file not in taken)]


def _from_function(given: Any, name: str, inputs: tuple[TensorInfo, ...], most: int | None) -> Frames:
    where = f"--calibration {one_line(name)}"
    return _Given(name, None, inputs, where, lambda: items(given, where), most)


def _open_arrays(path: Path, inputs: tuple[TensorInfo, ...], most: int | None) -> Frames:
    where = f"--calibration {path}"
    if path.is_dir():
        found = {file.stem: open_array(file, f"{where}: {file.name}") for file in sorted(path.glob("*.npy"))}
        if not found:
            raise OptionError(f"{where}: no .npy file in it: give one for each network input, or for each sample")
        if len(inputs) == 1 and inputs[0].name not in found:
            return _one_each(path, list(found.values()), inputs, where, most)
    elif not path.exists():
        raise OptionError(f"{where}: no such file or folder, and no MODULE:FUNCTION")
    elif path.suffix == ".npy" and len(inputs) == 1:
        found = {inputs[0].name: open_array(path, where)}
    else:
        found = open_archive(path, where)
    return _together(path, found, inputs, where, most)


def _one_each(
    path: Path, files: list[ArrayFile], inputs: tuple[TensorInfo, ...], where: str, most: int | None
) -> Frames:
    """A folder with a file for each sample."""
    return _Given(
        path.name, len(files) if most is None else min(most, len(files)), inputs, where,
        lambda: (one.whole() for one in files), most,
    )  # fmt: skip


def _together(
    path: Path, found: dict[str, ArrayFile], inputs: tuple[TensorInfo, ...], where: str, most: int | None
) -> Frames:
    """A file for each input, all samples in it."""
    names = {info.name for info in inputs}
    if len(names) == len(found) == 1:
        found = {inputs[0].name: next(iter(found.values()))}
    if set(found) != names:
        has, wants = (one_line(", ".join(sorted(one))) for one in (found, names))
        raise OptionError(f"{where} has {has}: the network's inputs are {wants}")
    steps = {}
    for info in inputs:
        stacked = len(found[info.name].shape) > len(info.shape)  # (k, B, ...) instead of (k * B, ...)
        steps[info.name] = 1 if stacked or not info.shape else info.shape[0]
    counts = {name: max(len(found[name]) // step, min(len(found[name]), 1)) for name, step in steps.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} for {one_line(name)!r}" for name, count in counts.items())
        raise OptionError(f"{where}: different numbers of samples ({told}): give the same number for each input")
    count = next(iter(counts.values()))

    def read() -> Iterator[dict[str, NDArray]]:
        pieces = [found[name].pieces(step) for name, step in steps.items()]
        for parts in zip(*pieces, strict=True):
            yield dict(zip(steps, parts, strict=True))

    return _Given(path.name, count if most is None else min(most, count), inputs, where, read, most)


def _shown(given: object) -> str:
    return str(given) if isinstance(given, str | os.PathLike) else ""
