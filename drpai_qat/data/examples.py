"""Data with answers: what --data names, as examples one after the other.

An example holds pixels or arrays as they are stored; what a network takes is made of them where the network is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeAlias

from drpai_qat.data.image_files import Pixels, Skipped
from drpai_qat.data.preprocessing import PRESETS, Preprocessing


@dataclass(frozen=True, eq=False)
class Example:
    """One input and its answer.

    Attributes:
        index: position in the data.
        name: of the file, or "17" for the 17th.
        value: pixels, or what a user's function yields: an array, a list of arrays, a mapping from input names.
        label: number of the class; where a metric of the user's own is asked for, whatever the data holds.
        is_pixels: `value` is an image, and goes through preprocessing.
    """

    index: int
    name: str
    value: Pixels | Any
    label: Any
    is_pixels: bool


Read: TypeAlias = Example | Skipped

PHOTOS = {name: PRESETS[name] for name in ("imagenet", "yolo", "tf", "caffe", "none")}
"""How a network may want photos; the first where nothing is known."""


class Data(Protocol):
    """Examples that can be read in parts."""

    @property
    def name(self) -> str:
        """What the user gave, for reports."""

    @property
    def count(self) -> int | None:
        """How many examples there are, damaged files included; None: not known before they end."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes in the order of their numbers; empty: there are only numbers."""

    @property
    def candidates(self) -> dict[str, Preprocessing]:
        """How its pixels are usually prepared, by a name for people; the first where nothing is known; empty: none."""

    @property
    def pixels(self) -> tuple[int, ...] | None:
        """Height, width and channels where all images have the same."""

    def part(self, shard: int, shards: int) -> Iterator[Read]:
        """Every `shards`-th example, beginning with number `shard`.

        Raises: OptionError: something can't be read.
        """


@dataclass(frozen=True, eq=False)
class IndexedData:
    """Data of which any example can be read at once; see Data. `chosen`: indices, in their order."""

    name: str
    chosen: Sequence[int]
    get: Callable[[int], Read]
    candidates: dict[str, Preprocessing]
    classes: Sequence[str] = ()
    pixels: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """See Data."""
        return len(self.chosen)

    def part(self, shard: int, shards: int) -> Iterator[Read]:
        """See Data."""
        return (self.get(index) for index in self.chosen[shard::shards])


@dataclass(frozen=True, eq=False)
class StreamedData:
    """Data that is read from its beginning; see Data. `most`: number of examples, all for None."""

    name: str
    read: Callable[[], Iterable[Example]]
    most: int | None = None
    known: int | None = None
    candidates: dict[str, Preprocessing] = field(default_factory=dict)
    classes: Sequence[str] = ()
    pixels: tuple[int, ...] | None = None

    @property
    def count(self) -> int | None:
        """See Data."""
        return self.known if self.known is None or self.most is None else min(self.known, self.most)

    def part(self, shard: int, shards: int) -> Iterator[Read]:
        """See Data."""
        chosen = None if self.known is None else set(spread(self.known, self.most))
        read = (one for one in self.read() if chosen is None or one.index in chosen)
        return islice(islice(read, self.most), shard, None, shards)


def spread(total: int, most: int | None) -> Sequence[int]:
    """`most` indices spread evenly over `total`, since data is often sorted by class; all of them for None."""
    return range(total) if most is None or most >= total else [index * total // most for index in range(most)]
