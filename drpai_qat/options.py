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
from drpai_qat.calibration.calibration_options import CalibrationOptions
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.check.thresholds import CheckOptions
from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import words
from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.deployment.output_options import OutputOptions
from drpai_qat.source.model_options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class CompileOptions(
    ModelOptions,
    OutputOptions,
    TargetOptions,
    TfliteOptions,
    FrameOptions,
    CalibrationOptions,
    SampleOptions,
    CheckOptions,
    SdkOptions,
):
    """Everything one compilation depends on besides the model's content; whoever needs a group takes it as that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        table.known(self.target)
        self.fit(self)
        if self.ptq == "best" and (self.qat_type is not None or self.uses_tools):
            why = "a trained network keeps its weights" if self.qat_type is not None else "the SDK's tools quantize"
            raise OptionError(f"--ptq best: for models without QAT and the built-in quantizer, and {why}: drop it")
        self._refuse_max_drop()
        if self.range_record is not None and self.qat_type is not None and not self._has_data:
            raise OptionError("-r: nothing to record without --images or --calibration: drop it")
        _ = self.calibration_recipe  # raises if a word of -p is unknown
        if self.mcpu is not None:
            from drpai_qat.backends.cpu import targets  # loads TVM: LLVM knows the CPUs

            targets.by_name(self.target, self.mcpu)

    def _refuse_max_drop(self) -> None:
        if self.max_drop is None:
            return
        if self.qat_type is not None:
            raise OptionError("--max-drop: for models without QAT: drop it, or -a (a trained layer stays in integers)")
        if self.uses_tools or self.target == "tflite":
            where = "the DRP-AI SDK's tools" if self.uses_tools else "--target tflite"
            raise OptionError(f"--max-drop: {where} can't have single layers in float: drop it")

    @property
    def _has_data(self) -> bool:
        return any(one is not None for one in (self.images, self.calibration))

    @property
    def calibration_recipe(self) -> Recipe:
        """How the built-in quantizer calibrates; the words of -p are for the SDK's where that is used."""
        return self.recipe(None if self.uses_tools else self.quantization_option)

    @property
    def range_record(self) -> str | None:
        """-r for the built-in quantizer; with the SDK's tools it is theirs."""
        return None if self.uses_tools else self.record_dir

    def remarks(self) -> Iterator[str]:
        """A line on each option that is given and changes nothing."""
        yield from super().remarks()
        if self.qat_type is None or self.uses_tools or self._has_data:
            return
        chosen = {
            "-n": self.num_frame, "-p": self.quantization_option, "--calibrate-method": self.calibrate_method,
            "--workers": None if self.workers == 1 else self.workers, "--scheduler": self.scheduler,
        }  # fmt: skip
        for name, value in chosen.items():
            if value is not None:
                yield f"{name} {value}: no effect without -d or -q, or data: a QAT model brings its trained ranges"

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path("out") / (Path(self.model).stem or "model") if self.output_dir is None else Path(self.output_dir)

    @property
    def command(self) -> str:
        """The command that means the same; files and folders by their names alone, and not who shared the work."""
        trained = [] if self.qat_type is None else ["-a", "-m", self.qat_type]
        others = words(self, without=("qat_type", "output_dir", "workers", "scheduler"))
        return shlex.join(["drpai-qat", "compile", Path(self.model).name, *trained, *others])
