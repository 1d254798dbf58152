"""Options of `drpai-qat compare`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, option
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.source.input_shape import InputShape


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Group):
    """What is compared, and how far apart it may be.

    Attributes:
        a, b: an ONNX file, an output folder or a TFLite file each; A is the reference.
    """

    title: ClassVar[str] = "Compare"

    a: str | Path = field(kw_only=False)
    b: str | Path = field(kw_only=False)
    input_shape: str | Iterable[str] = option(
        "-s", "--input_shape", metavar="SHAPE", repeatable=True, default=(),
        help="Sizes of dynamic dimensions of ONNX files: 1,3,224,224 or name:1,3,224,224; repeatable.",
    )  # fmt: skip
    fail_fast: bool = option(
        "--fail_fast", kind=bool, default=False,
        help="Stop at the first layer that diverges: later layers and the outputs are not compared.",
    )  # fmt: skip
    max_lsb: float | None = option(
        "--max_lsb", metavar="N", kind=float, least=0, default_text="no limit",
        help="Largest error of an output value, in steps of that output's scale.",
    )  # fmt: skip
    atol: float | None = option(
        "--atol", metavar="X", kind=float, least=0, default_text="no limit",
        help="Largest error of an output value: atol + rtol * |A's value|.",
    )  # fmt: skip
    rtol: float | None = option(
        "--rtol", metavar="X", kind=float, least=0, default_text="no limit",
        help="Relative part of the same limit.",
    )  # fmt: skip
    extract: str | None = option(
        "--extract", metavar="TENSOR",
        help="Write the smallest model that still computes this tensor of the table, with its inputs and what both "
        "sides make of them, to the folder of -o: for a bug report.",
    )  # fmt: skip
    output_dir: str | Path | None = option("-o", "--output_dir", metavar="DIR", help="Folder for --extract.")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.input_shapes  # raises if they can't be read
        if (self.extract is None) != (self.output_dir is None):
            raise OptionError("--extract and -o: give both, the tensor and the folder that it is written to")

    @property
    def input_shapes(self) -> tuple[InputShape, ...]:
        """The shapes of -s."""
        return tuple(InputShape.parse(text) for text in self.input_shape)

    @property
    def extract_folder(self) -> Path:
        """Where --extract writes."""
        assert self.output_dir is not None
        return Path(self.output_dir)

    @property
    def limited(self) -> bool:
        """Limits of the outputs were given."""
        return any(one is not None for one in (self.max_lsb, self.atol, self.rtol))


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ComparisonOptions, SampleOptions):
    """All that `drpai-qat compare` takes."""
