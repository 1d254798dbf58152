"""What deploy.json may hold. Each value is looked at before anything is done with it; errors name the way to it.

Keys that are not known are left alone, so that later versions may add some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drpai_qat.core.errors import DrpaiQatError
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.core.text import one_line

MOST_BYTES = 16 << 20
"""Of deploy.json: a network of ten thousand files and outputs has a tenth of it."""

MOST_TENSOR_BYTES = 4 << 30
"""Of all inputs and outputs together."""

TENSOR_TYPES = (
    "float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool",
)  # fmt: skip
GRID_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")

_LONGEST = 4096
_MOST_DIMS = 32  # numpy's own limit was 32 before its version 2
_INT64 = 1 << 63


class SchemaError(ValueError):
    """A value that deploy.json may not hold; the message begins with the way to it."""


@dataclass(frozen=True)
class Value:
    """A value of deploy.json.

    Attributes:
        where: the way to it ("inputs[0].shape"), for messages.
    """

    content: Any
    where: str = "deploy.json"

    def at(self, key: str) -> Value:
        """The value under a key that has to be there."""
        members = self.object()
        if key not in members:
            raise SchemaError(f"{self._below(key)} is missing")
        return Value(members[key], self._below(key))

    def maybe(self, key: str) -> Value | None:
        """The value under a key that may be left out, or null."""
        content = self.object().get(key)
        return None if content is None else Value(content, self._below(key))

    def object(self) -> dict[str, Any]:
        """As an object."""
        if not isinstance(self.content, dict):
            raise self.wrong("an object")
        return self.content

    def members(self) -> Iterator[tuple[str, Value]]:
        """Names and values of an object."""
        for key, content in self.object().items():
            yield key, Value(content, f"{self._below()}[{json.dumps(one_line(key, 60))}]")

    def items(self, most: int | None = None) -> list[Value]:
        """Of a list."""
        if not isinstance(self.content, list) or (most is not None and len(self.content) > most):
            raise self.wrong("a list" if most is None else f"a list of at most {most}")
        return [Value(content, f"{self.where}[{index}]") for index, content in enumerate(self.content)]

    def text(self) -> str:
        """As text that a file may be named by."""
        if not isinstance(self.content, str) or len(self.content) > _LONGEST or "\0" in self.content:
            raise self.wrong("a text")
        try:
            self.content.encode()
        except UnicodeEncodeError:  # half a surrogate pair, as \ud800 writes it
            raise self.wrong("a text") from None
        return self.content

    def one_of(self, *choices: str) -> str:
        """As one of some words."""
        if self.content not in choices or not isinstance(self.content, str):
            raise self.wrong(f"one of {', '.join(choices)}")
        return self.content

    def whole(self, low: int = -_INT64, high: int = _INT64 - 1) -> int:
        """As an integer of low..high."""
        if not isinstance(self.content, int) or isinstance(self.content, bool) or not low <= self.content <= high:
            raise self.wrong(f"a whole number from {low} to {high}")
        return self.content

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """As a finite number of low..high."""
        if not isinstance(self.content, int | float) or isinstance(self.content, bool):
            raise self.wrong("a number")
        try:
            value = float(self.content)
        except OverflowError:
            raise self.wrong("a number that a double holds") from None
        if not math.isfinite(value) or not low <= value <= high:
            raise self.wrong("a finite number" if math.isinf(low) else f"a number from {low:g} to {high:g}")
        return value

    def flag(self) -> bool:
        """As true or false."""
        if not isinstance(self.content, bool):
            raise self.wrong("true or false")
        return self.content

    def path(self) -> str:
        """As the name of a file inside the folder."""
        name = self.text()
        if not inside(name):
            raise self.wrong("a path inside the folder")
        return name

    def sha256(self) -> str:
        """As 64 hexadecimal digits."""
        if not isinstance(self.content, str) or len(self.content) != 64 or set(self.content) - set("0123456789abcdef"):
            raise self.wrong("a SHA-256 in hexadecimal")
        return self.content

    def wrong(self, wanted: str) -> SchemaError:
        """The error of a value that is not what it should be."""
        try:
            shown = one_line(json.dumps(self.content), 60)
        except (ValueError, RecursionError):
            shown = type(self.content).__name__
        return SchemaError(f"{self.where} is {shown}, not {wanted}")

    def _below(self, key: str | None = None) -> str:
        whole = self.where == "deploy.json"
        if key is None:
            return "" if whole else self.where
        return key if whole else f"{self.where}.{key}"


def inside(name: str) -> bool:
    """True if a name stays inside the folder that it is relative to."""
    return "\0" not in name and all(part not in ("", ".", "..") and len(part) < 256 for part in name.split("/"))


def tensors(entries: Value) -> tuple[TensorInfo, ...]:
    """Read `inputs` or `outputs`."""
    infos = [tensor(entry) for entry in entries.items()]
    seen: set[str] = set()
    for index, info in enumerate(infos):
        if info.name in seen:
            raise SchemaError(f"{entries.where}[{index}].name is {json.dumps(info.name)} a second time")
        seen.add(info.name)
    return tuple(infos)


def tensor(entry: Value) -> TensorInfo:
    """Read one input or output."""
    shape = tuple(dim.whole(0, MOST_TENSOR_BYTES) for dim in entry.at("shape").items(_MOST_DIMS))
    entry.at("quantization")
    quantization = entry.maybe("quantization")
    return TensorInfo(
        name=entry.at("name").text(),
        shape=shape,
        dtype=entry.at("dtype").one_of(*TENSOR_TYPES),
        quantization=None if quantization is None else _grid(quantization, shape),
    )


def check_sizes(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> None:
    """Bound what whoever runs the network has to allocate."""
    left = MOST_TENSOR_BYTES
    for where, infos in (("inputs", inputs), ("outputs", outputs)):
        for index, info in enumerate(infos):
            # numpy multiplies all dimensions but those of 0, too
            left -= math.prod(max(dim, 1) for dim in info.shape) * np.dtype(info.dtype).itemsize
            if left < 0:
                raise SchemaError(
                    f"{where}[{index}].shape is {one_line(list(info.shape), 60)}: inputs and outputs may take "
                    f"{MOST_TENSOR_BYTES >> 30} GiB together"
                )


def _grid(entry: Value, shape: tuple[int, ...]) -> QuantParams:
    axis = entry.maybe("axis")
    channels = None if axis is None else axis.whole(0, max(len(shape) - 1, 0))
    scales, points = entry.at("scale"), entry.at("zero_point")
    if channels is not None and len(scales.items()) != (shape[channels] if shape else 0):
        raise scales.wrong("a list with an entry for each channel")
    try:
        return QuantParams.of(
            [one.number() for one in scales.items()] if isinstance(scales.content, list) else scales.number(),
            [one.whole() for one in points.items()] if isinstance(points.content, list) else points.whole(),
            entry.at("dtype").one_of(*GRID_TYPES),
            qmin=entry.at("qmin").whole(),
            qmax=entry.at("qmax").whole(),
            axis=channels,
        )
    except DrpaiQatError as error:
        raise SchemaError(f"{entry.where}: {error}") from None


def target(entry: Value) -> Mapping[str, Any]:
    """Read `target`: what the code needs, or which file another runtime takes."""
    present = entry.object()
    if "features" in present:
        for one in entry.at("features").items():
            one.text()
    for key in ("name", "machine", "mcpu"):
        if key in present or "features" in present:
            entry.at(key).text()
    if "file" in present:
        entry.at("file").path()
    return entry.object()


def texts(entry: Value) -> dict[str, str]:
    """Read an object of texts."""
    return {key: value.text() for key, value in entry.members()}


def files(entry: Value) -> dict[str, str]:
    """Read `files`: SHA-256 by a path that stays inside the folder."""
    found = {}
    for name, value in entry.members():
        if not inside(name) or name == "deploy.json":
            raise SchemaError(f"{value.where} is not the path of another file inside the folder")
        Value(name, value.where).text()
        found[name] = value.sha256()
    return found


def check(entry: Value | None) -> Mapping[str, Any] | None:
    """Read `check`."""
    if entry is None:
        return None
    entry.at("passed").flag()
    return entry.object()
