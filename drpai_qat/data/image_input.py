"""One network input that takes images, and what turns pixels into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.core.text import listed, one_line
from drpai_qat.data.image_files import Pixels, resized, with_channels
from drpai_qat.data.preprocessing import Preprocessing, from_mapping

_CHANNELS = (1, 3, 4)
_MOST_PIXELS = 178_956_970
"""Of a scaled image, as Pillow bounds those that it opens."""


@dataclass(frozen=True, eq=False)
class ImageInput:
    """A network input, and how an image becomes it.

    Attributes:
        info: the input.
        channels: that the network sees.
        preprocessing: with `size` and `layout` as they are for this input.
    """

    info: TensorInfo
    channels: int
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        table, wanted = self.preprocessing.table(self.channels), np.dtype(self.info.dtype)
        if wanted.kind in "iu" and self.info.quantization is None:  # integers that stand for themselves
            with np.errstate(invalid="ignore"):
                found = table.astype(wanted)
            if not np.array_equal(found, table):
                raise OptionError(
                    f"input {one_line(self.info.name)!r} is {wanted}, and the preprocessing gives reals: pixels as "
                    "they are come from --preprocess none"
                )
            table = found
        object.__setattr__(self, "_table", table)

    def array(self, pixels: Pixels) -> NDArray:
        """One image as the network takes it, without the batch; float32, or the input's type where that is integers."""
        assert self.preprocessing.size is not None
        table: NDArray = getattr(self, "_table")  # noqa: B009  # a frozen dataclass has no fields to come
        placed = place(with_channels(pixels, self.channels), self.preprocessing, self.preprocessing.size)
        if self.preprocessing.color == "bgr" and self.channels > 1:
            placed = placed[..., [2, 1, 0, *range(3, self.channels)]]
        values = np.take_along_axis(table, placed.reshape(-1, self.channels), axis=0).reshape(placed.shape)
        if self.preprocessing.layout == "nchw":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values).reshape(self.info.shape[1:])

    def to_json(self) -> dict[str, Any]:
        """As it stands in deploy.json."""
        return {"input": self.info.name, "channels": self.channels, **self.preprocessing.to_json()}


def image_input(
    inputs: Sequence[TensorInfo], preprocessing: Preprocessing, what: str, pixels: tuple[int, ...] | None = None
) -> ImageInput:
    """The input of a network that takes images.

    Args:
        inputs: of the network; one of them is to be four-dimensional, rows of pixels, or a vector of pixels.
        what: option and value, for messages.
        pixels: height, width and channels where all images have the same, for inputs that are vectors.
    Raises: OptionError: no input, or several, can be an image; or `preprocessing` does not fit it.
    """
    forms = [(info, form) for info in inputs for form in [_form(info, preprocessing, pixels)] if form is not None]
    if len(forms) != 1 or len(inputs) != 1:
        shapes = listed([f"{one_line(info.name)} {list(info.shape)}" for info in inputs])
        hint = (
            "" if preprocessing.size or len(inputs) > 1 else " (a vector of pixels needs `size` in --preprocess FILE)"
        )
        raise OptionError(f"{what}: the network takes {shapes}, which is no image{hint}: give arrays instead")
    info, (channels, size, layout) = forms[0]
    return ImageInput(info, channels, replace(preprocessing, size=size, layout=layout))


def recorded_input(recorded: Mapping[str, Any], inputs: Sequence[TensorInfo], where: str) -> ImageInput:
    """What deploy.json records.

    Raises: OptionError: it is damaged, or speaks of another network.
    """
    values = {name: value for name, value in recorded.items() if name not in ("input", "channels")}
    named = [info for info in inputs if info.name == recorded.get("input")]
    return image_input(named or inputs, from_mapping(values, f"{where}: preprocessing"), where)


def _form(
    info: TensorInfo, preprocessing: Preprocessing, pixels: tuple[int, ...] | None
) -> tuple[int, tuple[int, int], str] | None:
    """Channels, height and width, and layout of an input; None if it is no image."""
    shape, layout = info.shape[1:], preprocessing.layout
    if len(shape) == 3 and shape[0] in _CHANNELS and layout != "nhwc":
        return shape[0], (shape[1], shape[2]), "nchw"
    if len(shape) == 3 and shape[2] in _CHANNELS and layout != "nchw":
        return shape[2], (shape[0], shape[1]), "nhwc"
    if len(shape) == 2 and min(shape) > 1:
        return 1, (shape[0], shape[1]), "nhwc"
    size = preprocessing.size or (pixels[:2] if pixels else None)
    if len(shape) == 1 and size is not None and shape[0] % (size[0] * size[1]) == 0:
        channels = shape[0] // (size[0] * size[1])
        if channels in _CHANNELS:
            return channels, (size[0], size[1]), "nhwc" if layout == "nhwc" else "nchw"
    return None


def place(pixels: Pixels, how: Preprocessing, size: tuple[int, int]) -> Pixels:
    """An image in the input's height and width; see Preprocessing.resize.

    Raises: OptionError: it is so long for its width that scaling would take gigabytes.
    """
    height, width = pixels.shape[:2]
    if how.resize == "stretch":
        return resized(pixels, size, how.interpolation)
    if how.resize == "crop":
        # The shorter side, measured by the input's, becomes 1/crop times that; the longer one is rounded down, as in
        # torchvision.
        scale = max(round(size[0] / how.crop) / height, round(size[1] / how.crop) / width)
        whole = (max(int(height * scale + 1e-6), 1), max(int(width * scale + 1e-6), 1))
        if whole[0] * whole[1] > _MOST_PIXELS:
            raise OptionError(
                f"preprocessing: an image of {width} x {height} pixels would have {whole[1]} x {whole[0]} before the "
                "middle is cut out: leave it out, or resize with stretch or letterbox"
            )
        pixels = resized(pixels, whole, how.interpolation)
    elif how.resize == "letterbox":
        scale = min(size[0] / height, size[1] / width)
        whole = (max(round(height * scale), 1), max(round(width * scale), 1))
        pixels = resized(pixels, (min(whole[0], size[0]), min(whole[1], size[1])), how.interpolation)
    return _centered(pixels, size, how.pad)


def _centered(pixels: Pixels, size: tuple[int, int], pad: int) -> Pixels:
    """Cut the middle out, or put it on a ground of `pad`."""
    ground = np.full((*size, pixels.shape[2]), pad, np.uint8)
    rows, columns = (_overlap(have, want) for have, want in zip(pixels.shape[:2], size, strict=True))
    ground[rows[1], columns[1]] = pixels[rows[0], columns[0]]
    return ground


def _overlap(have: int, want: int) -> tuple[slice, slice]:
    """Where `have` pixels in the middle of `want` come from and go to; odd rests as torchvision and YOLO round them."""
    if have >= want:
        start = round((have - want) / 2)
        return slice(start, start + want), slice(0, want)
    start = round((want - have) / 2 - 0.1)
    return slice(0, have), slice(start, start + have)
