"""Options of the TFLite backend; known without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, option

TARGET = "tflite"


@dataclass(frozen=True, kw_only=True)
class TfliteOptions(Group):
    """What a TFLite file holds."""

    title: ClassVar[str] = "TFLite"

    tflite_float: bool = option(
        "--tflite_float", kind=bool, default=False,
        help="With --target tflite: write the network in float32 and with float16 weights too, without roundings.",
    )  # fmt: skip
    allow_float: bool = option(
        "--allow_float", kind=bool, default=False,
        help="With --target tflite: compute in float32 what TFLite can't express in integers, instead of refusing it.",
    )  # fmt: skip

    def fit(self, target: TargetOptions) -> None:
        """Hold these options, and those of other targets, to the one that was chosen.

        Raises: OptionError: an option would be ignored.
        """
        if target.target == TARGET:
            others = {"--mcpu": target.mcpu, "-t": target.toolchain_dir, "--cross_compiler": target.cross_compiler}
            given, why = [name for name, value in others.items() if value is not None], "a TFLite file runs on any CPU"
        else:
            own = {"--tflite_float": self.tflite_float, "--allow_float": self.allow_float}
            given, why = [name for name, value in own.items() if value], f"for --target {TARGET} only"
        if given:
            raise OptionError(f"{', '.join(given)}: {why}: drop {'it' if len(given) == 1 else 'them'}")
