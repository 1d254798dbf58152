"""What the user may choose, parsed and checked in one place for the command line and for Python.

Knows neither ONNX nor TVM: whether an option fits the model is found where the model is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.errors import OptionError
from drpai_qat.core.input_shape import InputShape

QatType: TypeAlias = Literal["pytorch", "tensorflow"]
CheckKind: TypeAlias = Literal["outputs", "layers", "none"]

QAT_TYPES: tuple[QatType, ...] = ("pytorch", "tensorflow")
CHECK_KINDS: tuple[CheckKind, ...] = ("outputs", "layers", "none")
COMPILER_VERSIONS = ("091", "100")
CPU_DATA_TYPES = ("float16", "float32")


@dataclass(frozen=True)
class CompileOptions:
    """Everything one compilation depends on besides the model's content.

    Attributes:
        model: the ONNX file.
        qat_type: framework that trained it; None: found out from the patterns.
        output_dir: folder to write; replaced as a whole if it is an earlier output.
        input_shapes: values of dynamic dimensions.
        target, mcpu: see drpai_qat.backends.cpu.targets.by_name.
        toolchain_dir, cross_compiler: what links for another machine; see drpai_qat.backends.cpu.toolchain.
        check: compare outputs, or every quantized tensor too, or nothing.
        thresholds: what the check must reach.
        samples: number of sample inputs that the check runs.
        seed: of the sample inputs.
        cache: keep compiled kernels between runs.
    """

    model: Path
    qat_type: QatType | None
    output_dir: Path
    input_shapes: tuple[InputShape, ...] = ()
    target: str = "host"
    mcpu: str | None = None
    toolchain_dir: str | None = None
    cross_compiler: str | None = None
    check: CheckKind = "outputs"
    thresholds: Thresholds = field(default_factory=Thresholds)
    samples: int = 4
    seed: int = 0
    cache: bool = True


def compile_options(
    model: str | Path,
    *,
    qat_type: str | None = None,
    output_dir: str | Path | None = None,
    input_shape: str | Iterable[str] = (),
    input_name: str | Iterable[str] = (),
    target: str = "host",
    mcpu: str | None = None,
    toolchain_dir: str | Path | None = None,
    cross_compiler: str | None = None,
    check: str = "outputs",
    thresholds: Thresholds | None = None,
    samples: int = 4,
    seed: int = 0,
    cache: bool = True,
) -> CompileOptions:
    """Check single values and put them together; the arguments are those of the command line.

    Raises: OptionError: a value is malformed, or two contradict each other.
    """
    if qat_type is not None and qat_type.lower() not in QAT_TYPES:
        raise OptionError(f"-m {qat_type!r} is not a QAT type: give pytorch or tensorflow")
    if check not in CHECK_KINDS:
        raise OptionError(f"--check {check!r} is unknown: give outputs, layers or none")
    if samples < 1:
        raise OptionError(f"--check-samples {samples}: at least one sample is needed")
    if seed < 0:
        raise OptionError(f"--seed {seed}: give 0 or a positive number")
    path = Path(model)
    if output_dir is not None and not str(output_dir):
        raise OptionError("-o is empty: give a folder")
    if target != "host" or mcpu is not None:
        from drpai_qat.backends.cpu.targets import by_name  # loads TVM

        by_name(target, mcpu)
    return CompileOptions(
        model=path,
        qat_type=next((known for known in QAT_TYPES if qat_type and qat_type.lower() == known), None),
        output_dir=Path(output_dir) if output_dir is not None else Path("out") / (path.stem or "model"),
        input_shapes=_input_shapes(_listed(input_shape), _listed(input_name)),
        target=target,
        mcpu=mcpu,
        toolchain_dir=None if toolchain_dir is None else str(toolchain_dir),
        cross_compiler=cross_compiler,
        check=next(kind for kind in CHECK_KINDS if kind == check),
        thresholds=thresholds or Thresholds(),
        samples=samples,
        seed=seed,
        cache=cache,
    )


def _listed(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _input_shapes(shapes: tuple[str, ...], names: tuple[str, ...]) -> tuple[InputShape, ...]:
    """Give the shapes written without a name those of -i, in order."""
    parsed = [InputShape.parse(shape) for shape in shapes]
    unnamed = [shape for shape in parsed if shape.name is None]
    if names and len(names) != len(unnamed):
        raise OptionError(
            f"-i names {len(names)} network input(s) for {len(unnamed)} shape(s) given with -s: "
            "give one -s for each -i, or write -s name:shape"
        )
    if len(unnamed) > 1 and not names:
        raise OptionError("-s is given more than once without a name: write -s name:shape for each network input")
    remaining = iter(names)
    named = tuple(InputShape(next(remaining, None), shape.dims) if shape.name is None else shape for shape in parsed)
    given = [shape.name for shape in named]
    for name in given:
        if given.count(name) > 1:
            raise OptionError(f"-s gives network input {name!r} more than one shape: keep one")
    return named


@dataclass(frozen=True)
class SdkOptions:
    """Options of the SDK's script that the built-in compiler has no use for; None or empty: not given."""

    drp_compiler_dir: str | None = None
    quantization_tool: str | None = None
    quantization_option: str | None = None
    drp_compiler_version: str | None = None
    record_dir: str | None = None
    num_frame: int | None = None
    images: str | None = None
    cpu_data_type: str | None = None
    level: int | None = None


def refuse_unserved(sdk: SdkOptions) -> None:
    """Nothing that a user asks for is ignored: what this release doesn't do is refused, naming what to drop.

    Raises: OptionError: with the options to drop.
    """
    backend = {
        "-d": sdk.drp_compiler_dir,
        "-q/-c": sdk.quantization_tool,
        "-p": sdk.quantization_option,
        "-v": sdk.drp_compiler_version,
    }
    given = [name for name, value in backend.items() if value is not None]
    if given:
        raise OptionError(
            f"{', '.join(given)}: the DRP-AI SDK's tools are served by a later release; without "
            f"{'it' if len(given) == 1 else 'them'} the built-in quantizer and compiler do the whole job"
        )
    calibration = {"-r": sdk.record_dir, "-n": sdk.num_frame, "--images": sdk.images}
    given = [name for name, value in calibration.items() if value is not None]
    if given:
        raise OptionError(
            f"{', '.join(given)}: calibration is served by a later release; drop "
            f"{'it' if len(given) == 1 else 'them'}: a QAT model brings its trained ranges"
        )
    if sdk.cpu_data_type == "float16":
        raise OptionError("-f float16 is served by a later release; drop it: float layers run in float32")
    if sdk.level == 0:
        raise OptionError(
            "--level 0 turns off an optimization of the DRP-AI SDK; the built-in compiler has level 1 only: drop it"
        )
