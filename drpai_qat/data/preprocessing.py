"""How pixels become a network's input: named presets, or a YAML file.

    value = (pixel * scale - mean) / std        pixel 0..255, for each channel; one rounding, to float32

The definition is small and closed on purpose: deploy.json records it, and runners on a board apply it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from drpai_qat.core.errors import MissingExtraError, OptionError
from drpai_qat.core.quantization import FloatArray
from drpai_qat.core.text import one_line

RESIZES = ("stretch", "crop", "letterbox", "center")
INTERPOLATIONS = ("bilinear", "nearest", "bicubic", "area")
COLORS = ("rgb", "bgr")
LAYOUTS = ("auto", "nchw", "nhwc")
_CHOICES = {"resize": RESIZES, "interpolation": INTERPOLATIONS, "color": COLORS, "layout": LAYOUTS}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image to a network input.

    Attributes:
        resize: how an image gets the input's height and width. stretch: each side on its own. crop: the shorter side
            becomes 1/`crop` times the input's, and the middle is cut out. letterbox: the whole image fits in, and the
            rest is filled with `pad`. center: no scaling; the middle is cut out, or put on a ground of `pad`.
        crop: see `resize`.
        interpolation: with anti-aliasing where the image becomes smaller, but for nearest; as Pillow computes them.
        color: order of the channels of a colour network.
        scale, mean, std: see the module; one number for all channels, or one for each.
        pad: pixel value of what is filled.
        size: height and width, for inputs that are vectors of pixels; None: the input's own.
        layout: of the input; auto: where 1, 3 or 4 channels can be.
    """

    resize: str = "stretch"
    crop: float = 0.875
    interpolation: str = "bilinear"
    color: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pad: int = 114
    size: tuple[int, int] | None = None
    layout: str = "auto"

    def table(self, channels: int) -> FloatArray:
        """The value of each pixel value, (256, channels).

        Raises: OptionError: mean or std are for another number of channels.
        """
        mean, std = (self._for_channels(name, channels) for name in ("mean", "std"))
        return np.asarray((np.arange(256.0)[:, None] * self.scale - mean) / std, np.float32)

    def _for_channels(self, name: str, channels: int) -> list[float]:
        values: tuple[float, ...] = getattr(self, name)
        if len(values) == channels:
            return list(values)
        if len(values) == 1:
            return list(values) * channels
        if channels == 1:  # a grey image has the mean of its colours
            return [sum(values) / len(values)]
        raise OptionError(f"--preprocess: {name} has {len(values)} values, the network's input {channels} channels")

    def to_json(self) -> dict[str, Any]:
        """As it stands in deploy.json."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_IMAGENET = Preprocessing(resize="crop", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

PRESETS: Mapping[str, Preprocessing] = {
    "imagenet": _IMAGENET,
    "yolo": Preprocessing(resize="letterbox"),
    "tf": Preprocessing(scale=1 / 127.5, mean=(1.0,)),
    "caffe": Preprocessing(color="bgr", scale=1.0, mean=(103.939, 116.779, 123.68)),
    "none": Preprocessing(scale=1.0),
}
"""torchvision's classifiers; YOLO's; Keras's modes "tf" and "caffe"; pixels as they are."""

DEFAULT = "imagenet"


def read_preprocessing(given: str | Path | Mapping[str, Any]) -> Preprocessing:
    """A preset by its name, the content of a file, or a mapping of what a file would hold.

    Raises: OptionError: the file can't be read, or holds something else. MissingExtraError: PyYAML is not installed.
    """
    if isinstance(given, Mapping):
        return from_mapping(given, "preprocess")
    if str(given) in PRESETS:
        return PRESETS[str(given)]
    path = Path(given)
    return from_mapping(_load(path), f"--preprocess {path.name}")


def from_mapping(values: Mapping[str, Any], where: str) -> Preprocessing:
    """Read what a YAML file or deploy.json holds: fields of Preprocessing, and `preset`, whose values the others have.

    Raises: OptionError: an unknown field, or a value that means nothing.
    """
    known = [one.name for one in fields(Preprocessing)]
    found = Preprocessing()
    for name, value in values.items():
        if name == "preset":
            if value not in PRESETS:
                raise OptionError(f"{where}: preset {one_line(value)} is unknown: give {' or '.join(PRESETS)}")
            found = PRESETS[value]
        elif name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it may hold preset, {', '.join(known)}"
            raise OptionError(f"{where}: {one_line(name)} is unknown: {hint}")
    return replace(found, **{name: _value(name, value, where) for name, value in values.items() if name != "preset"})


def _value(name: str, value: Any, where: str) -> Any:
    at = f"{where}: {name} {one_line(value)}"
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise OptionError(f"{at} is unknown: give {' or '.join(_CHOICES[name])}")
        return value
    if name in ("mean", "std"):
        numbers = tuple(_number(one, at) for one in (value if isinstance(value, list | tuple) else [value]))
        if len(numbers) not in (1, 3, 4):
            raise OptionError(f"{at}: give one number, or one for each channel")
        if name == "std" and 0 in numbers:
            raise OptionError(f"{at} divides by zero")
        return numbers
    if name == "size":
        if value is None:
            return None
        sides = (value, value) if isinstance(value, int) else value
        whole = isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides)
        if not whole or not all(0 < side < 65536 for side in sides):
            raise OptionError(f"{at}: give height and width, [224, 224]")
        return tuple(sides)
    number = _number(value, at)
    if name == "pad" and (number != int(number) or not 0 <= number <= 255):
        raise OptionError(f"{at}: give 0 to 255")
    if name == "crop" and not 0 < number <= 1:
        raise OptionError(f"{at}: give the share that is kept, 0.875")
    if name == "scale" and number == 0:
        raise OptionError(f"{at}: every pixel would be the same")
    return int(number) if name == "pad" else number


def _number(value: Any, at: str) -> float:
    """A number, or a fraction as text: 1/255."""
    try:
        number = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
        if isinstance(value, bool) or not isfinite(number):
            raise ValueError
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise OptionError(f"{at}: {one_line(value)} is not a number") from None
    return number


def _load(path: Path) -> Mapping[str, Any]:
    where = f"--preprocess {path.name}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{where}: can't be read: {getattr(error, 'strerror', None) or 'not text'}") from None
    content = _parsed(path, text, where)
    if not isinstance(content, Mapping):
        raise OptionError(f"{where}: no list of names and values: write lines such as `mean: [0.485, 0.456, 0.406]`")
    return content


def _parsed(path: Path, text: str, where: str) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise OptionError(f"{where}: not JSON: {one_line(error)}") from None
    try:
        import yaml
    except ImportError:
        raise MissingExtraError(
            f"{where}: YAML files need PyYAML: pip install 'drpai-qat[images]', or write it as .json"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(f"{where}: not YAML: {one_line(error)}") from None


def describe(found: Preprocessing) -> str:
    """One line for people."""
    numbers = f"mean {_listed(found.mean)}, std {_listed(found.std)}, of pixels times {found.scale:.6g}"
    return f"{found.resize}, {found.interpolation}, {found.color}, {numbers}"


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
