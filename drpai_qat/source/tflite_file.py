"""A TFLite file as plain data, whoever wrote it: tensors, constants, operators. And the file cut into pieces.

Read with the schema that ai-edge-litert ships. Nothing is trusted: what does not hold together is said in one line.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import MissingExtraError, ModelError, QuantizationError
from drpai_qat.core.quantization import SMALLEST_SCALE, QuantParams
from drpai_qat.core.text import one_line

IDENTIFIER = b"TFL3"
FED = "/fed"
"""Behind a cut tensor's name on its reading side."""

_TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 10: "float64",
    12: "uint64", 15: "uint32", 16: "uint16",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LiteTensor:
    """A tensor.

    Attributes:
        name: unique in the file; a repeated name has its number behind it.
        dtype: numpy's name; "" for types without one (strings, 4-bit integers).
        grid: what its integers mean; None where they mean themselves.
        constant: its values; None for activations.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: QuantParams | None
    constant: NDArray[Any] | None


@dataclass(frozen=True)
class LiteOperator:
    """An operator: `kind` as in the schema; -1 among `inputs` is one left out.

    Attributes:
        activation: fused: "NONE", "RELU", "RELU6", "RELU_N1_TO_1".
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str


@dataclass(frozen=True, eq=False)
class LiteFile:
    """The first subgraph of a file.

    Attributes:
        path: of the file.
        content: its bytes.
        operators: in order of execution.
        inputs, outputs: tensor index by the name that the signature gives, or the tensor's where there is none.
    """

    path: Path
    content: bytes
    tensors: tuple[LiteTensor, ...]
    operators: tuple[LiteOperator, ...]
    inputs: dict[str, int]
    outputs: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> LiteFile:
        """Read a file.

        Raises: ModelError: it is not there, no TFLite file, or damaged. MissingExtraError: the schema is not installed.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: can't be read: {error.strerror or error}") from None
        if content[4:8] != IDENTIFIER:
            raise ModelError(f"{path} is not a TFLite file, or is truncated: convert or copy it again")
        schema = _schema()
        try:
            model = _unpacked(schema, content)
            graph = model.subgraphs[0]
            tensors = _tensors(model, graph)
            operators = _operators(schema, model, graph)
            if any(i >= len(tensors) for one in operators for i in (*one.inputs, *one.outputs)):
                raise ValueError("an operator reads a tensor that is not there")
            inputs, outputs = _names(model, graph, tensors)
        except QuantizationError as error:
            raise ModelError(f"{path}: {error}") from None
        except Exception as error:  # flatbuffers raises anything at damaged content
            what = one_line(error) or type(error).__name__
            raise ModelError(f"{path}: not a valid TFLite model: {what}: convert or copy it again") from None
        return cls(path, content, tensors, operators, inputs, outputs)

    def cut(self, fed: Sequence[int], wanted: Sequence[int]) -> bytes:
        """A file that computes some tensors, with others as inputs.

        Args:
            fed: tensors that are read from new inputs, named as the tensor with "/fed" behind.
            wanted: tensors that become the outputs, under their own names; what they do not need is left out.
        """
        import flatbuffers

        schema = _schema()
        model = _unpacked(schema, self.content)
        graph = model.subgraphs[0]
        for tensor, known in zip(graph.tensors, self.tensors, strict=True):
            tensor.name = known.name
        place = {}
        for index in fed:
            twin = copy.copy(graph.tensors[index])
            twin.name = self.tensors[index].name + FED
            graph.tensors.append(twin)
            place[index] = len(graph.tensors) - 1
        needed, kept = set(wanted), []
        for known, operator in reversed(list(zip(self.operators, graph.operators, strict=True))):
            if needed.isdisjoint(known.outputs):
                continue
            inputs = [place.get(i, i) for i in known.inputs]
            operator.inputs = np.asarray(inputs, np.int32)
            needed.update(inputs)
            kept.append(operator)
        graph.operators = kept[::-1]
        graph.inputs = np.asarray([i for i in (*self.inputs.values(), *place.values()) if i in needed], np.int32)
        graph.outputs = np.asarray(list(wanted), np.int32)
        model.signatureDefs = []
        builder = flatbuffers.Builder(len(self.content) + (1 << 20))
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


def is_tflite(path: Path) -> bool:
    """The file begins as TFLite files do, or is named as one."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == IDENTIFIER or path.suffix == ".tflite"
    except OSError:
        return path.suffix == ".tflite"


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingExtraError(f"{error}: TFLite files need LiteRT: pip install 'drpai-qat[tflite]'") from None
    return schema_py_generated


def _unpacked(schema: Any, content: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def _tensors(model: Any, graph: Any) -> tuple[LiteTensor, ...]:
    found, taken = [], set()
    for tensor in graph.tensors:
        plain = tensor.name.decode(errors="replace") if tensor.name else "tensor"
        name, count = plain, 1
        while name in taken:
            name, count = f"{plain};{count}", count + 1
        taken.add(name)
        shape = () if tensor.shape is None else tuple(int(dim) for dim in tensor.shape)
        dtype = _TYPES.get(tensor.type, "")
        data = model.buffers[tensor.buffer].data
        constant = None
        if data is not None and len(data) and dtype:
            constant = np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype).reshape(shape)
        found.append(LiteTensor(name, shape, dtype, _grid(tensor.quantization, dtype, name), constant))
    return tuple(found)


def _grid(given: Any, dtype: str, name: str) -> QuantParams | None:
    if given is None or given.scale is None or not len(given.scale) or not dtype.startswith(("int", "uint")):
        return None
    points = np.zeros(len(given.scale), np.int64) if given.zeroPoint is None else given.zeroPoint
    axis = int(given.quantizedDimension) if len(given.scale) > 1 else None
    kind = dtype if dtype != "int64" else "int32"  # biases of 16x8 layers
    scale = np.asarray(given.scale, np.float32)
    if kind == "int32":  # a bias: of a dead channel its scale, a product, may be smaller than floats are
        scale = np.maximum(scale, np.float32(SMALLEST_SCALE))
    return QuantParams.of(scale, points, np.dtype(kind), axis=axis, where=f"tensor {one_line(name)!r}")


def _operators(schema: Any, model: Any, graph: Any) -> tuple[LiteOperator, ...]:
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    acts = {value: name for name, value in vars(schema.ActivationFunctionType).items() if isinstance(value, int)}
    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        inputs, outputs = (
            tuple(int(i) for i in (() if side is None else side)) for side in (operator.inputs, operator.outputs)
        )
        found.append(LiteOperator(kinds[number], inputs, outputs, acts.get(activation, "NONE")))
    return tuple(found)


def _names(model: Any, graph: Any, tensors: Sequence[LiteTensor]) -> tuple[dict[str, int], dict[str, int]]:
    """Inputs and outputs in the subgraph's order, under the signature's names."""
    called: list[dict[int, str]] = [{}, {}]
    for signature in (model.signatureDefs or [])[:1]:
        for names, side in zip(called, (signature.inputs, signature.outputs), strict=True):
            names.update({int(one.tensorIndex): one.name.decode() for one in side or []})
    made = [
        {names.get(int(i), tensors[int(i)].name): int(i) for i in side}
        for names, side in zip(called, (graph.inputs, graph.outputs), strict=True)
    ]
    return made[0], made[1]
