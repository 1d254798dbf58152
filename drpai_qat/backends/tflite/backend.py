"""TFLite as a backend: the file, its sample run and its check in LiteRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.backends.protocol import Artifact, RunOnce
from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.backends.tflite.tflite_options import TARGET, TfliteOptions
from drpai_qat.check.certificate import Fineness
from drpai_qat.core.coverage import LoweredNode
from drpai_qat.core.errors import OptionError
from drpai_qat.core.io_types import FLOAT32, SOURCE
from drpai_qat.core.progress import Stages
from drpai_qat.core.text import listed
from drpai_qat.data.given_samples import read_samples
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.data.samples import choose_samples
from drpai_qat.graph.edges import ElemTypes
from drpai_qat.report.size import MemoryUse, Size, count_weights
from drpai_qat.source.model_options import ModelOptions
from preprocess.passlog import Note

if TYPE_CHECKING:
    from drpai_qat.backends.tflite.writer import LiteModel

Samples = Sequence[Mapping[str, NDArray]]


class TfliteBackend:
    """INT8 TFLite files with the trained ranges; see drpai_qat.backends.protocol.Backend."""

    integer_operators = True

    def __init__(self) -> None:
        self._options = TfliteOptions()
        self._given: SampleOptions | None = None
        self._name = "model"
        self._io: str | None = None

    def prepare(self, options: TargetOptions) -> None:
        """See that what writes and runs TFLite files is installed.

        Raises: MissingExtraError: it is not; the message names the extra.
        """
        from drpai_qat.backends.tflite import flatbuffer as _  # noqa: F401  (imports the extra)

        self._io = options.io
        if isinstance(options, TfliteOptions):
            self._options = options
        if isinstance(options, SampleOptions) and options.given is not None:
            self._given = options
        if isinstance(options, ModelOptions):
            self._name = Path(options.model).stem or self._name

    def compile(
        self, canonical: onnx.ModelProto, folder: Path, progress: Stages, source: ElemTypes | None = None
    ) -> Artifact:
        """Write NAME_int8.tflite, and the float variants if they are asked for.

        Raises:
            LoweringError: TFLite can't express a node in integers; the message names it.
            OptionError: `--io source`, and the source's types are no edges that this backend writes.
        """
        from drpai_qat.backends.tflite.observed import observed_ranges
        from drpai_qat.backends.tflite.running import WrittenNetwork
        from drpai_qat.backends.tflite.writer import Form, write_tflite
        from drpai_qat.runtimes.tflite import LiteNetwork

        options = self._options
        with progress.stage("writing the TFLite file"):
            ranges = observed_ranges(canonical, self._samples(canonical))
            made = write_tflite(
                canonical, edges=_edges(self._io, source or {}), allow_float=options.allow_float,
                ranges=ranges,
            )  # fmt: skip
            path = folder / f"{self._name}_int8.tflite"
            path.write_bytes(made.content)
            written = [path.name]
            forms: tuple[Form, ...] = ("float32", "float16") if options.tflite_float else ()
            for form in forms:
                name = f"{self._name}_{form}.tflite"
                (folder / name).write_bytes(write_tflite(canonical, form=form).content)
                written.append(name)

        def compile_here(model: onnx.ModelProto) -> RunOnce:
            return WrittenNetwork(write_tflite(model, allow_float=options.allow_float, ranges=ranges)).run

        return Artifact(
            inputs=made.inputs,
            outputs=made.outputs,
            coverage=tuple(LoweredNode(one.node, one.op, one.compute, one.macs, one.reason) for one in made.coverage),
            target={"name": TARGET, "file": path.name, "derived": [one.to_json() for one in made.derived]},
            runs_on="LiteRT (TensorFlow Lite) on any machine; the check ran it here",
            next_command="drpai-qat run OUT",
            notes=_notes(made),
            fineness=_fineness(made),
            samples_as_taken=lambda feeds: _on_derived_grids(made, feeds),
            size=Size(len(made.content), 0, count_weights(canonical), MemoryUse(), path.name),
            files=tuple(written),
            network=LiteNetwork(path),
            compile_here=compile_here,
        )

    def _samples(self, canonical: onnx.ModelProto) -> Samples:
        """The user's own samples; random ones say nothing of ranges."""
        if self._given is None or self._given.given is None:
            return ()
        return choose_samples(canonical, read_samples(self._given.given), self._given)


def _edges(io: str | None, source: ElemTypes) -> Literal["int8", "float32"]:
    if io != SOURCE:
        return "float32" if io == FLOAT32 else "int8"
    kinds = {onnx.TensorProto.DataType.Name(kind).lower() for kind in source.values()}
    if kinds <= {"float", "int8"} and len(kinds) == 1:
        return "float32" if kinds == {"float"} else "int8"
    raise OptionError(
        "--io source: TFLite files are written with float32 or int8 at both ends, and the model has "
        f"{listed(sorted(kinds))}: give --io int8 or --io float32"
    )


FIXED_POINT_LSB, FIXED_POINT_LSB_16 = 0.05, 2.0
"""Distance from a rounding boundary that LiteRT's fixed-point kernels do not tell apart, on grids of 8 and 16 bits.

The largest seen on real exports is 0.041: layers of 16x8, whose multipliers have 15 bits, and Softmax."""


def _fineness(made: LiteModel) -> Fineness:
    derived = {one.tensor: one.grid.scale for one in made.derived}
    outputs = {one.name: derived[one.name] for one in made.outputs if one.name in derived}
    return Fineness(FIXED_POINT_LSB, FIXED_POINT_LSB_16, outputs)


def _notes(made: LiteModel) -> tuple[Note, ...]:
    derived = (
        Note("note", TARGET, one.tensor, f"training left it without a range: {one.grid.dtype} from {one.source}")
        for one in made.derived
    )
    return (*derived, *(Note("note", TARGET, node, reason) for node, reason in made.notes))


def _on_derived_grids(made: LiteModel, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Samples as an input holds them whose grid training did not give: what that rounds off, no network can compute."""
    grids = {one.tensor: one.grid.params() for one in made.derived if one.tensor in feeds}
    rounded = {
        name: grid.dequantize(grid.quantize(np.asarray(feeds[name], np.float32))) for name, grid in grids.items()
    }
    return {**feeds, **rounded}
