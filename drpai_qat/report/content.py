"""What a compilation tells: the content, and report.json. `terminal.py` prints the short form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpai_qat.check.fidelity import CheckResult
from drpai_qat.check.figures import OutputFigures
from drpai_qat.core.coverage import KernelCall, LoweredNode, int8_mac_fraction
from drpai_qat.report.estimate import Estimate, estimate
from drpai_qat.report.layers import Layer
from drpai_qat.report.size import Size

if TYPE_CHECKING:  # graphsurgeon is not needed to read a report
    from preprocess import Note

FILE = "report.json"


@dataclass(frozen=True)
class Report:
    """One compilation.

    Attributes:
        model: file name, sha256, qat_type.
        output_dir: the folder that was written.
        target: name of the target.
        runs_on: its machines, in words.
        next_command: to type next, with OUT for the folder.
        weights, activations: quantized tensors of the canonical model.
        notes: preprocess's log.
        coverage: where each node computes.
        size: files and memory.
        samples: name, sha256 and number of the samples that the user gave; None where they were random.
        check: None if --check none.
        min_int8: what --min_int8 asks for; None: nothing.
        seconds: by stage.
        layers: what computes, in order; made of the coverage and the canonical model.
        calibration: what was given a range by data, and how; None: nothing.
        loss: outputs beside those of the source, where ranges come from data.
        kernels: the steps of a run, in order; for `drpai-qat profile`.
    """

    model: Mapping[str, Any]
    output_dir: Path
    target: str
    runs_on: str
    next_command: str
    weights: int
    activations: int
    notes: tuple[Note, ...]
    coverage: tuple[LoweredNode, ...]
    size: Size
    samples: Mapping[str, Any] | None
    check: CheckResult | None
    seconds: Mapping[str, float]
    min_int8: float | None = None
    layers: tuple[Layer, ...] = ()
    calibration: Mapping[str, Any] | None = None
    loss: tuple[OutputFigures, ...] = ()
    kernels: tuple[KernelCall, ...] = ()

    @property
    def passed(self) -> bool:
        """False if the check fell short, or less than what was asked for runs in integers."""
        return (self.check is None or self.check.passed) and not self.too_few_integers

    @property
    def too_few_integers(self) -> str:
        """That --min_int8 is missed, in words; "" if it is not."""
        if self.min_int8 is None or self.int8_mac_fraction >= self.min_int8:
            return ""
        return (
            f"{self.int8_mac_fraction:.1%} of multiply-accumulates run in integers, less than --min-int8 "
            f"{self.min_int8:.1%}: the report says why each float layer is one"
        )

    @property
    def int8_mac_fraction(self) -> float:
        """Share of multiply-accumulates in integers, 0..1."""
        return int8_mac_fraction(self.coverage)

    @property
    def estimate(self) -> Estimate | None:
        """The least time of a run, where the target is a board's CPU."""
        return estimate(self.layers, self.target)

    def to_json(self) -> dict[str, Any]:
        """The content of report.json; it names no folder of this machine."""
        return {
            "model": dict(self.model),
            "target": self.target,
            "runs_on": self.runs_on,
            "quantized": {"weights": self.weights, "activations": self.activations},
            "passed": self.passed,
            "int8_mac_fraction": self.int8_mac_fraction,
            "min_int8": self.min_int8,
            "calibration": self._calibration(),
            "size": self.size.to_json(),
            "estimate": None if (found := self.estimate) is None else found.to_json(),
            "check": None if self.check is None else self.check.to_json(),
            "layers": [one.to_json() for one in self.layers],
            "coverage": [vars(one) for one in self.coverage],
            "kernels": [vars(one) for one in self.kernels],
            "notes": [{"action": one.action, "where": one.node, "reason": one.reason} for one in self.notes],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def _calibration(self) -> dict[str, Any] | None:
        if self.calibration is None:
            return None
        return {**self.calibration, "against_source": [one.to_json() for one in self.loss]}

    def summary(self) -> dict[str, Any] | None:
        """What deploy.json says of the check; None if there was none."""
        if self.check is None:
            return None
        outputs = [one.to_json() for one in self.check.outputs]
        return {"passed": self.check.passed, "samples": self.check.samples, "outputs": outputs}

    def write(self, folder: Path) -> None:
        """Write report.json."""
        text = json.dumps(self.to_json(), indent=2, allow_nan=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")
