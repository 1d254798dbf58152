"""Options that concern the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from drpai_qat.core.errors import OptionError
from drpai_qat.core.memory_limit import MemoryLimit, parsed_size
from drpai_qat.core.option_groups import Group, option
from drpai_qat.source.input_shape import InputShape


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Group):
    """The file, who trained it, and the sizes that it leaves open.

    Attributes:
        model: the ONNX file.
    """

    title: ClassVar[str] = "Model"

    model: str | Path = field(kw_only=False)
    qat_type: str | None = option(
        "-m", "--qat_type", choices=("pytorch", "tensorflow"), any_case=True,
        help="Framework that trained the model; needs -a.", default_text="recognized from the file",
    )  # fmt: skip
    input_shape: str | Iterable[str] = option(
        "-s", "--input_shape", metavar="SHAPE", repeatable=True, default=(),
        help="Sizes of dynamic dimensions: 1,3,224,224 or name:1,3,224,224; repeatable. If only the batch is dynamic, "
        "it becomes 1.",
    )  # fmt: skip
    input_name: str | Iterable[str] = option(
        "-i", "--input_name", metavar="NAME", repeatable=True, default=(),
        help="Network input that an -s without a name is for; repeatable.",
    )  # fmt: skip

    outputs: str | Iterable[str] = option(
        "--outputs", metavar="NAME,...", repeatable=True, default=(),
        help="End the network at these tensors, which become its outputs: before non-maximum suppression and other "
        "parts whose size depends on the data.",
    )  # fmt: skip
    strict: bool = option(
        "--strict", kind=bool, default=False,
        help="Refuse a file that a warning is due for: exported in training mode, never calibrated, not of the "
        "framework that -m names, quantized after training or in its weights alone, dividing by what its ranges let be "
        "0.",
    )  # fmt: skip
    max_memory: str | None = option(
        "--max_memory", metavar="SIZE", default_text="80% of what the machine has available",
        help="Memory that a compilation may take (8G, 500M): files that ask for more are refused before it is taken, "
        "by the sizes of their tensors.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.input_shapes  # raises if they can't be read
        if self.max_memory is not None:
            parsed_size(self.max_memory)

    @property
    def memory(self) -> MemoryLimit:
        """What --max_memory says."""
        return MemoryLimit.of(self.max_memory)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The tensors of --outputs, each once."""
        names = [name.strip() for text in self.outputs for name in text.split(",")]
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def input_shapes(self) -> tuple[InputShape, ...]:
        """The shapes that were given; those without a name get the names of -i, in order."""
        parsed = [InputShape.parse(shape) for shape in self.input_shape]
        unnamed, names = [shape for shape in parsed if shape.name is None], list(self.input_name)
        if names and len(names) != len(unnamed):
            raise OptionError(
                f"-i names {len(names)} network input(s) for {len(unnamed)} shape(s) given with -s: "
                "give one -s for each -i, or write -s name:shape"
            )
        if len(unnamed) > 1 and not names:
            raise OptionError("-s is given more than once without a name: write -s name:shape for each network input")
        remaining = iter(names)
        named = [InputShape(next(remaining, None), shape.dims) if shape.name is None else shape for shape in parsed]
        given = [shape.name for shape in named]
        for name in given:
            if given.count(name) > 1:
                raise OptionError(f"-s gives network input {name!r} more than one shape: keep one")
        return tuple(named)
