"""Gives dynamic dimensions their value: a compiled network has static shapes.

A dynamic batch alone becomes 1; other dynamic dimensions need -s.
"""

from __future__ import annotations

import shlex

import onnx

from drpai_qat.core.errors import ModelError, OptionError
from drpai_qat.core.text import listed, one_line
from drpai_qat.source.declarations import complete_declarations
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.structure import network_inputs, subgraphs

LARGEST_TENSOR = 2**31
"""Elements of a network input beyond which a shape is a mistake."""

_NO_SYMBOLS = ("?", "-1", "None")
"""Names that converters give to every size they do not know: Paddle writes [-1, 3, ?, ?]."""


def specialize(file: str, model: onnx.ModelProto, shapes: tuple[InputShape, ...]) -> onnx.ModelProto:
    """Copy the model with every network input static.

    Args:
        file: name for messages.
        model: checked model; not changed.
        shapes: those given with -s.
    Returns: the copy. What the file says of shapes behind the inputs is a claim, which graph editors and other batches
        make wrong, and onnxruntime goes without it: it is dropped, and outputs get the shapes that follow.
    Raises:
        OptionError: a shape names no input, has another rank, or contradicts a fixed dimension.
        ModelError: a dimension that is not the batch is dynamic and no shape was given.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = network_inputs(fixed.graph)
    wanted = _assign(file, [value.name for value in inputs], shapes)
    symbols: dict[str, int] = {}
    for value in (*inputs, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in _NO_SYMBOLS or dim.dim_value < 0:
                dim.Clear()
    for value in inputs:
        _fix_input(file, value, wanted.get(value.name), symbols)
    unsized = {value.name: dims for value in inputs if (dims := _open_dims(value))}
    if unsized:
        raise ModelError(_ask_for_shapes(file, inputs, unsized), see="dynamic-shapes")
    for graph in subgraphs(fixed.graph):
        del graph.value_info[:]
        for value in graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    for function in fixed.functions:
        del function.value_info[:]
    complete_declarations(fixed)
    return fixed


def _assign(file: str, names: list[str], shapes: tuple[InputShape, ...]) -> dict[str, tuple[int, ...]]:
    """Which network input each given shape is for."""
    assigned = {}
    for shape in shapes:
        name = shape.name
        if name is None:
            if len(names) > 1:
                raise OptionError(
                    f"-s {shape}: {file} has {len(names)} inputs ({one_line(listed(names))}): write -s name:shape"
                )
            name = names[0]
        if name not in names:
            raise OptionError(
                f"-s {shape}: {file} has no input {one_line(name)!r}: its inputs are {one_line(listed(names))}"
            )
        assigned[name] = shape.dims
    return assigned


def _fix_input(file: str, value: onnx.ValueInfoProto, wanted: tuple[int, ...] | None, symbols: dict[str, int]) -> None:
    """Write `wanted` (or 1 for a dynamic batch) into an input, and remember what its symbols stand for."""
    tensor = value.type.tensor_type
    name = one_line(value.name)
    if not tensor.HasField("shape"):
        if wanted is None:
            return
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in wanted)
    dims = tensor.shape.dim
    if wanted is not None and len(wanted) != len(dims):
        raise OptionError(
            f"-s {','.join(map(str, wanted))}: input {name!r} of {file} has {len(dims)} dimensions {_written(value)}, "
            f"not {len(wanted)}"
        )
    for index, dim in enumerate(dims):
        if _is_open(dim):
            size = symbols.get(dim.dim_param) if wanted is None else wanted[index]
            if size is None and index == 0 and len(dims) > 1:
                size = 1
            if size is None:
                continue
            if dim.dim_param and symbols.setdefault(dim.dim_param, size) != size:
                raise OptionError(
                    f"-s: dimension {one_line(dim.dim_param)!r} of {file} is {symbols[dim.dim_param]} for one input "
                    f"and {size} for {name!r}: give it one size"
                )
            dim.dim_value = size
        elif wanted is not None and wanted[index] != dim.dim_value:
            raise OptionError(
                f"-s {','.join(map(str, wanted))}: dimension {index} of input {name!r} is fixed to {dim.dim_value} "
                f"in {file} {_written(value)}: keep it, or export the model with that size"
            )
    count = 1
    for dim in dims:
        count *= dim.dim_value if not _is_open(dim) else 1
    if count > LARGEST_TENSOR:
        raise ModelError(f"{file}: input {name!r} has shape {_written(value)}: more than 2^31 values")


def _is_open(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """True if the dimension has no usable size: symbolic, unset, or the 0 and -1 that some exporters write."""
    return not dim.HasField("dim_value") or dim.dim_value <= 0


def _open_dims(value: onnx.ValueInfoProto) -> list[str] | None:
    """Names of dynamic dimensions, the index where they have none; None if all are fixed."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return ["all"]
    return [dim.dim_param or str(index) for index, dim in enumerate(tensor.shape.dim) if _is_open(dim)] or None


def _written(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    sizes = [one_line(dim.dim_param or "?") if _is_open(dim) else str(dim.dim_value) for dim in dims]
    return f"[{', '.join(sizes)}]"


def _ask_for_shapes(file: str, inputs: list[onnx.ValueInfoProto], unsized: dict[str, list[str]]) -> str:
    """Name the dynamic dimensions and show the -s to use, with 224 for what looks like an image side."""
    told, flags = [], []
    for value in inputs:
        if value.name not in unsized:
            continue
        told.append(
            f"input {one_line(value.name)!r} {_written(value) if value.type.tensor_type.shape.dim else '(no shape)'}"
        )
        flags.append("-s " + shlex.quote(one_line(_example_shape(value))))
    names = sorted({dim for dims in unsized.values() for dim in dims})
    return (
        f"{file}: dynamic dimension {one_line(listed(names))} in {'; '.join(told)}: give its size, "
        f"for example {' '.join(flags)}"
    )


def missing_shapes(model: onnx.ModelProto) -> tuple[InputShape, ...]:
    """Example shapes for the network inputs that need -s, with the sizes of images where they look like it."""
    shapes = []
    for value in network_inputs(model.graph):
        unknown = _open_dims(value)
        rank = len(value.type.tensor_type.shape.dim)
        if unknown and not (rank > 1 and len(unknown) == 1 and _is_open(value.type.tensor_type.shape.dim[0])):
            shapes.append(_example_shape(value))
    return tuple(shapes)


def _example_shape(value: onnx.ValueInfoProto) -> InputShape:
    dims = value.type.tensor_type.shape.dim
    sizes = [_example(index, len(dims), dim) for index, dim in enumerate(dims)] or ["1", "3", "224", "224"]
    return InputShape(value.name, tuple(int(size) for size in sizes))


def _example(index: int, rank: int, dim: onnx.TensorShapeProto.Dimension) -> str:
    if not _is_open(dim):
        return str(dim.dim_value)
    if index == 0:
        return "1"
    return "3" if rank == 4 and index == 1 else "224" if rank == 4 else "128"
