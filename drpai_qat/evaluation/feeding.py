"""Examples as a network takes them: pixels prepared, arrays in its shape, integers on its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import as_fed, as_given
from drpai_qat.core.text import one_line
from drpai_qat.data.examples import Data, Example
from drpai_qat.data.fitting import named, rows
from drpai_qat.data.image_input import ImageInput, image_input, recorded_input
from drpai_qat.data.preprocessing import Preprocessing, describe, read_preprocessing
from drpai_qat.data.value_ranges import NEAR, apart, doubt, value_range
from drpai_qat.evaluation.networks import OpenedNetwork


class Feeding:
    """Makes feeds for one network.

    Attributes:
        batch: number of examples that a run takes.
        image: how pixels become its input; None: the data holds none.
        told: where that is from, for people; "" if there is none, or it is that of the other network.
        guessed: why it may be wrong; "" if it is known.
    """

    def __init__(
        self,
        network: OpenedNetwork,
        data: Data,
        given: str | Path | Mapping[str, Any] | None,
        first: Preprocessing | None = None,
    ) -> None:
        """Choose the preprocessing: as given, else as recorded, else that of the first network, else the likeliest.

        Args:
            given: value of --preprocess.
            first: of another network that answers the same.
        Raises: OptionError: the network takes no images, and the data holds some.
        """
        self._network = network
        self._inputs = tuple(as_given(info) for info in network.inputs)
        self.batch = self._inputs[0].shape[0] if self._inputs[0].shape else 1
        self.image: ImageInput | None = None
        self.told = ""
        self.guessed = ""
        self._where = f"--data {data.name}"
        if not data.candidates:  # arrays, which go in as they are
            return
        if given is not None:
            self._take(read_preprocessing(given), data, "as --preprocess says")
        elif network.preprocessing is not None:
            self.image = recorded_input(network.preprocessing, self._inputs, network.name)
            self.told = f"as deploy.json records: {describe(self.image.preprocessing)}"
        elif first is not None:
            self._take(replace(first, size=None, layout="auto"), data, "")
        else:
            likeliest, why, self.guessed = _likeliest(network, data)
            taken = image_input(self._inputs, likeliest, self._where, data.pixels)
            if _cuts(taken.preprocessing, data.pixels):
                likeliest = replace(likeliest, resize="stretch")
            self._take(likeliest, data, why)
        if self.image is not None and not self.guessed:
            self.guessed = doubt(self.image.preprocessing, network.reach)

    def _take(self, preprocessing: Preprocessing, data: Data, why: str) -> None:
        self.image = image_input(self._inputs, preprocessing, self._where, data.pixels)
        self.told = why and f"{why}: {describe(preprocessing)}"

    def feeds(self, examples: Sequence[Example]) -> dict[str, NDArray]:
        """The feeds of one run: a batch of examples, the last one repeated where they are fewer.

        Raises: OptionError: an example does not fit the network.
        """
        padded = [*examples, *[examples[-1]] * (self.batch - len(examples))]
        found = [self._one(example) for example in padded]
        feeds = {}
        for info, taken in zip(self._inputs, self._network.inputs, strict=True):
            together = np.concatenate([one[info.name] for one in found])
            if together.shape != info.shape:
                raise OptionError(
                    f"{self._where}: {len(padded)} examples make {list(together.shape)} of input "
                    f"{one_line(info.name)!r}: the network takes {list(info.shape)}"
                )
            feeds[info.name] = as_fed(together, taken)
        return feeds

    def _one(self, example: Example) -> dict[str, NDArray]:
        where = f"{self._where}: {one_line(example.name)}"
        if example.is_pixels:
            assert self.image is not None  # data of pixels has candidates
            return {self.image.info.name: self.image.array(example.value)[None]}
        arrays = named(example.value, self._inputs, where)
        return {info.name: rows(arrays[info.name], info, where) for info in self._inputs}


def _likeliest(network: OpenedNetwork, data: Data) -> tuple[Preprocessing, str, str]:
    """Of the usual ways to prepare such pixels, the one whose values the input was trained on; else the first.

    Returns: it, why, and why it may be wrong.
    """
    name, first = next(iter(data.candidates.items()))
    if network.reach is None:
        unknown = (
            f"nothing records how pixels become the network's input: assumed {name}, unless --preprocess says more"
        )
        return first, f"assumed, {name}", unknown
    distances = {name: apart(value_range(one), network.reach) for name, one in data.candidates.items()}
    nearest = min(distances, key=lambda one: distances[one])
    low, high = network.reach
    if distances[nearest] <= NEAR:
        return data.candidates[nearest], f"{nearest}, as the input was trained on {low:.4g} to {high:.4g}", ""
    wrong = f"the input was trained on {low:.4g} to {high:.4g}, and {name} gives something else: give --preprocess"
    return first, f"assumed, {name}", wrong


def _cuts(how: Preprocessing, pixels: tuple[int, ...] | None) -> bool:
    """True if small images would lose their borders."""
    if how.resize != "center" or pixels is None or how.size is None:
        return False
    return pixels[0] > how.size[0] or pixels[1] > how.size[1]
