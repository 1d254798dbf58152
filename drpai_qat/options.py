"""All that the user may choose for one compilation: the groups of the rooms, put together.

Knows neither ONNX nor TVM: whether an option fits the model is found where the model is known.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drpai_qat.backends import table
from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.backends.tflite.tflite_options import TfliteOptions
from drpai_qat.check.thresholds import CheckOptions
from drpai_qat.core.option_groups import words
from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.deployment.output_options import OutputOptions
from drpai_qat.source.model_options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class CompileOptions(
    ModelOptions, OutputOptions, TargetOptions, TfliteOptions, FrameOptions, SampleOptions, CheckOptions, SdkOptions
):
    """Everything one compilation depends on besides the model's content; whoever needs a group takes it as that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        table.known(self.target)
        self.fit(self)
        if self.mcpu is not None:
            from drpai_qat.backends.cpu import targets  # loads TVM: LLVM knows the CPUs

            targets.by_name(self.target, self.mcpu)

    def remarks(self) -> Iterator[str]:
        """A line on each option that is given and changes nothing."""
        yield from super().remarks()
        if self.num_frame is not None and not self.uses_tools and self.images is None and self.calibration is None:
            yield f"-n {self.num_frame}: no effect without -d or -q, or data: a QAT model brings its trained ranges"

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path("out") / (Path(self.model).stem or "model") if self.output_dir is None else Path(self.output_dir)

    @property
    def command(self) -> str:
        """The command that means the same; files and folders by their names alone."""
        trained = [] if self.qat_type is None else ["-a", "-m", self.qat_type]
        others = words(self, without=("qat_type", "output_dir"))
        return shlex.join(["drpai-qat", "compile", Path(self.model).name, *trained, *others])
