"""A TFLite file under construction: tensors, constants and operators of one subgraph, in the schema's own classes.

The only module that imports the schema, which the package ai-edge-litert ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite.grids import LiteGrid
from drpai_qat.core.errors import MissingExtraError

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:  # pragma: no cover - depends on the installation
    raise MissingExtraError(
        f"{error}: TFLite files are written with the schema of ai-edge-litert: pip install 'drpai-qat[tflite]'"
    ) from None

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}

# Lowest version of an operator that may hold a type, where that is not 1. Source: TensorFlow's op_version.cc.
_VERSIONS: dict[str, dict[str, int]] = {
    "CONV_2D": {"int8": 3, "int16": 4},
    "DEPTHWISE_CONV_2D": {"int8": 3, "int16": 5},
    "FULLY_CONNECTED": {"int8": 4, "int16": 7},
    "TRANSPOSE_CONV": {"int8": 3, "int16": 3},
    "BATCH_MATMUL": {"int8": 2, "int16": 3},
    "ADD": {"int8": 2, "int16": 4},
    "SUB": {"int8": 2, "int16": 5},
    "MUL": {"int8": 2, "int16": 4},
    "MAX_POOL_2D": {"int8": 2, "int16": 3},
    "AVERAGE_POOL_2D": {"int8": 2, "int16": 3},
    "MEAN": {"int8": 2, "int16": 3},
    "SOFTMAX": {"int8": 2, "int16": 3},
    "LOGISTIC": {"int8": 2, "int16": 3},
    "TANH": {"int8": 2, "int16": 3},
    "CONCATENATION": {"int8": 2, "int16": 3},
    "PADV2": {"int8": 2, "int16": 2},
    "PAD": {"int8": 2, "int16": 3},
    "QUANTIZE": {"int8": 1, "int16": 2},
    "DEQUANTIZE": {"int8": 2, "int16": 3, "float16": 3},
    "RESIZE_BILINEAR": {"int8": 3, "int16": 4},
    "RESIZE_NEAREST_NEIGHBOR": {"int8": 3, "int16": 4},
    "STRIDED_SLICE": {"int8": 2, "int16": 4},
    "SLICE": {"int8": 2, "int16": 4},
    "TRANSPOSE": {"int8": 2, "int16": 4},
    "GATHER": {"int8": 2, "int16": 4},
    "MAXIMUM": {"int8": 2, "int16": 4},
    "MINIMUM": {"int8": 2, "int16": 4},
    "REDUCE_MAX": {"int8": 2, "int16": 3},
    "REDUCE_MIN": {"int8": 2, "int16": 3},
    "SUM": {"int8": 2, "int16": 2},
    "RELU": {"int8": 2, "int16": 3},
    "TILE": {"int8": 2, "int16": 3},
    "LEAKY_RELU": {"int8": 2, "int16": 2},
    "PACK": {"int8": 2, "int16": 2},
    "SPACE_TO_DEPTH": {"int8": 2},
    "DEPTH_TO_SPACE": {"int8": 1},
    "ELU": {"int8": 1},
    "LOG_SOFTMAX": {"int8": 2},
}


@dataclass
class FlatFile:
    """Collects a subgraph; `pack` writes it.

    Attributes:
        half: float constants of some size are stored as float16, with a DEQUANTIZE in front of their readers.
    """

    half: bool = False
    tensors: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    grids: list[LiteGrid | None] = field(default_factory=list)
    _buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])
    _codes: dict[tuple[str, int], int] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _constants: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def tensor(self, name: str, shape: Sequence[int], dtype: str, grid: LiteGrid | None = None) -> int:
        """A tensor that an operator computes, or an input; returns its index."""
        tensor = schema.TensorT()
        tensor.name = self._free(name)
        tensor.shape = np.asarray(shape, np.int32)
        tensor.type = _TYPES[dtype]
        tensor.buffer = 0
        tensor.hasRank = True
        if grid is not None:
            tensor.quantization = _quantization(grid)
        self.tensors.append(tensor)
        self.shapes.append(tuple(int(d) for d in shape))
        self.types.append(dtype)
        self.grids.append(grid)
        return len(self.tensors) - 1

    def constant(self, name: str, values: NDArray[Any], grid: LiteGrid | None = None) -> int:
        """A constant; equal ones are stored once."""
        values = np.array(values, order="C", copy=None)  # a number stays one, of no axes
        key = (values.dtype.name, values.shape, values.tobytes(), grid)
        if key in self._constants:
            return self._constants[key]
        if self.half and values.dtype == np.float32 and values.size >= 16:
            index = self._half(name, values)
        else:
            index = self.tensor(name, values.shape, values.dtype.name, grid)
            self.tensors[index].buffer = self._buffer(values)
        self._constants[key] = index
        return index

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Append an operator.

        Args:
            kind: its name in the schema, such as CONV_2D.
            inputs: tensor indices; -1 for one left out.
            options: fields of its options table, in the schema's spelling; `table` names the table.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(kind, [self.types[i] for i in (*inputs, *outputs) if i >= 0])
        operator.inputs = np.asarray(inputs, np.int32)
        operator.outputs = np.asarray(outputs, np.int32)
        table = options.pop("table", None)
        if table is not None:
            made = getattr(schema, f"{table}T")()
            for name, value in options.items():
                if not hasattr(made, name):
                    raise ValueError(f"{table} has no field {name}")
                setattr(made, name, value)
            second = hasattr(schema.BuiltinOptions2, table)
            kinds = schema.BuiltinOptions2 if second else schema.BuiltinOptions
            if second:
                operator.builtinOptions2Type, operator.builtinOptions2 = getattr(kinds, table), made
            else:
                operator.builtinOptionsType, operator.builtinOptions = getattr(kinds, table), made
        self.operators.append(operator)

    def pack_used(
        self, used: Sequence[int], inputs: dict[str, int], outputs: dict[str, int], description: str
    ) -> bytes:
        """The file, with the tensors and operator codes that are used and no others.

        Args:
            used: indices of the tensors to keep.
            inputs, outputs: tensor index by the name that the signature gives it.
        """
        place = {old: new for new, old in enumerate(used)}
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors = [self.tensors[index] for index in used]
        buffers, versions = [schema.BufferT()], list(self._codes)
        codes: dict[tuple[str, int], int] = {}
        for tensor in graph.tensors:
            if tensor.buffer:
                buffers.append(self._buffers[tensor.buffer])
                tensor.buffer = len(buffers) - 1
        for operator in self.operators:
            operator.inputs = np.asarray([place.get(int(i), -1) for i in operator.inputs], np.int32)
            operator.outputs = np.asarray([place[int(i)] for i in operator.outputs], np.int32)
            operator.opcodeIndex = codes.setdefault(versions[operator.opcodeIndex], len(codes))
        graph.operators = self.operators
        placed = [{name: place[index] for name, index in side.items()} for side in (inputs, outputs)]
        graph.inputs, graph.outputs = (np.asarray(list(side.values()), np.int32) for side in placed)
        signature = schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.subgraphIndex = 0
        signature.inputs, signature.outputs = (_tensor_maps(side) for side in placed)
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = description
        model.subgraphs = [graph]
        model.signatureDefs = [signature]
        model.buffers = buffers
        model.operatorCodes = [_operator_code(kind, version) for kind, version in codes]
        size = sum(buffer.data.nbytes for buffer in buffers if buffer.data is not None)
        builder = flatbuffers.Builder(size + (1 << 20))
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _half(self, name: str, values: NDArray[Any]) -> int:
        stored = self.tensor(f"{name}:float16", values.shape, "float16")
        self.tensors[stored].buffer = self._buffer(values.astype(np.float16))
        index = self.tensor(name, values.shape, "float32")
        self.operator("DEQUANTIZE", [stored], [index], table="DequantizeOptions")
        return index

    def _buffer(self, values: NDArray[Any]) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._buffers.append(buffer)
        return len(self._buffers) - 1

    def _code(self, kind: str, types: list[str]) -> int:
        known = _VERSIONS.get(kind, {})
        key = (kind, max((known.get(one, 1) for one in types), default=1))
        return self._codes.setdefault(key, len(self._codes))

    def _free(self, name: str) -> str:
        """The name, with a number behind it where it is taken."""
        free, count = name, 1
        while free in self._names:
            free, count = f"{name};{count}", count + 1
        self._names.add(free)
        return free


def _quantization(grid: LiteGrid) -> Any:
    params = schema.QuantizationParametersT()
    params.scale = np.asarray(grid.scales, np.float32)
    params.zeroPoint = np.full(len(grid.scales), grid.zero_point, np.int64)
    params.quantizedDimension = grid.axis
    return params


def _operator_code(kind: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version
    return code


def _tensor_maps(tensors: dict[str, int]) -> list[Any]:
    maps = []
    for name, index in tensors.items():
        one = schema.TensorMapT()
        one.name, one.tensorIndex = name, index
        maps.append(one)
    return maps


def activation(kind: str) -> int:
    """The schema's number of a fused activation: NONE, RELU, RELU6, RELU_N1_TO_1."""
    return int(getattr(schema.ActivationFunctionType, kind))


def padding(kind: str) -> int:
    """SAME or VALID."""
    return int(getattr(schema.Padding, kind))


def tensor_type(dtype: str) -> int:
    """The schema's number of a type."""
    return int(_TYPES[dtype])
