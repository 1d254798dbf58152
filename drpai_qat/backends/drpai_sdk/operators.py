"""Which operators the accelerator takes: a reading of public examples, as the Translator's own list is not public.

`--offload_ops FILE` puts another list in its place. A condition stands beside each operator; those of a file have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx.defs

from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import one_line

ALWAYS = "always"
WEIGHTS = "with constant weights"
FUSED = "right behind an operator that is taken"

SET_091: Mapping[str, str] = {
    "Conv": WEIGHTS, "Gemm": WEIGHTS, "MatMul": WEIGHTS, "Add": ALWAYS, "Sub": ALWAYS, "Mul": ALWAYS, "Concat": ALWAYS,
    "BatchNormalization": ALWAYS, "MaxPool": ALWAYS, "AveragePool": ALWAYS, "GlobalAveragePool": ALWAYS,
    "Resize": ALWAYS, "Sigmoid": ALWAYS, "LeakyRelu": ALWAYS, "Reshape": ALWAYS, "Flatten": ALWAYS, "Squeeze": ALWAYS,
    "Unsqueeze": ALWAYS, "Identity": ALWAYS, "Relu": FUSED, "Clip": FUSED,
}  # fmt: skip
"""The pre-release set. That it takes Relu and Clip as part of the layer in front of them is an inference."""

SET_100: Mapping[str, str] = {
    **SET_091, "MatMul": ALWAYS, "Relu": ALWAYS, "Clip": ALWAYS, "ConvTranspose": WEIGHTS, "HardSwish": ALWAYS,
    "Mish": ALWAYS, "Slice": ALWAYS, "Softmax": ALWAYS, "Split": ALWAYS,
}  # fmt: skip

_SETS = {"091": SET_091, "100": SET_100}


@dataclass(frozen=True)
class Operators:
    """The operators that the accelerator takes.

    Attributes:
        conditions: by name of the ONNX operator, one of the words above.
        origin: who says so, for deploy.json: "-v 100", "--offload_ops mine.txt".
    """

    conditions: Mapping[str, str]
    origin: str

    @classmethod
    def chosen(cls, options: SdkOptions) -> Operators:
        """The set of -v, or the user's own.

        Raises: OptionError: the file can't be read, or holds something else than names of operators.
        """
        if options.offload_ops is not None:
            conditions: Mapping[str, str] = _read(Path(options.offload_ops))
            origin = f"--offload_ops {Path(options.offload_ops).name}"
        else:
            conditions, origin = _SETS[options.operator_set], f"-v {options.operator_set}"
        if options.level == 0:
            return cls({name: one for name, one in conditions.items() if name != "Concat"}, f"{origin}, --level 0")
        return cls(conditions, origin)


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OptionError(f"--offload_ops {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"--offload_ops {path}: is no text: write one ONNX operator on each line") from None
    names = [text for line in lines if (text := line.split("#", 1)[0].strip())]
    for name in names:
        if not onnx.defs.has(name):
            raise OptionError(
                f"--offload_ops {path}: {one_line(name, 60)!r} is no ONNX operator: write one on each line"
            )
    if not names:
        raise OptionError(f"--offload_ops {path}: names no operator: write one on each line, or drop the option")
    return dict.fromkeys(names, ALWAYS)
