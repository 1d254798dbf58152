"""From a file to a checked ModelProto: whatever is wrong with it is said here, in one line.

    load(path) -> Source:   read -> external data -> declarations -> tensors -> structure -> onnx.checker

Knows onnx only. Nothing is trusted: sizes and locations are checked before data is read.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from drpai_qat.core.errors import ModelError
from drpai_qat.core.text import one_line
from drpai_qat.source.declarations import checkable, complete_declarations
from drpai_qat.source.framework_names import name_layers
from drpai_qat.source.growth import check_growth
from drpai_qat.source.structure import check_structure, sort_nodes, subgraphs

MAX_BYTES = 2**31 - 1
"""protobuf's limit for one message; larger models keep their weights in external data."""

_FOREIGN = {
    b"PK\x03\x04": "a zip archive (a PyTorch .pth or a Keras .keras file?)",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (a Keras .h5 model?)",
    b"\x80\x02": "a Python pickle (an old PyTorch .pth file?)",
    b"version https://git-lfs": "a git-lfs pointer, not the model itself: run `git lfs pull`",
    b"<": "an XML or HTML page",
    b"{": "JSON",
}


@dataclass(frozen=True)
class Source:
    """A model as its user gave it.

    Attributes:
        path: the file.
        model: its content, nodes in topological order, external data loaded.
        sha256: of the file's bytes, hexadecimal.
    """

    path: Path
    model: onnx.ModelProto
    sha256: str


def load(path: Path) -> Source:
    """Read and check an ONNX file.

    Raises: ModelError: it can't be read, isn't ONNX, is damaged, or its graph is malformed.
    """
    content = _read(path)
    model = _parse(path, content)
    broken = next(_broken_texts(model), None)
    if broken is not None:
        raise ModelError(f"{path}: {one_line(broken)} is not text: damaged file")
    name_layers(model.graph)
    check_growth(path.name, model)
    _load_external_data(path, model)
    complete_declarations(model)
    for where, tensor in _tensors(model):
        _check_tensor(path, where, tensor)
    check_structure(path.name, model)
    sort_nodes(path.name, model.graph)
    _check_with_onnx(path, model)
    return Source(path, model, hashlib.sha256(content).hexdigest())


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder: give the .onnx file in it")
        if not path.exists():
            raise ModelError(f"{path}: no such file")
        if not path.is_file():
            raise ModelError(f"{path} is not a regular file: give an .onnx file")
        size = path.stat().st_size
        if size == 0:
            raise ModelError(f"{path} is empty: export the model again")
        if size > MAX_BYTES:
            raise ModelError(f"{path} is {size / 1e9:.1f} GB: one ONNX file holds at most 2 GB")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from None


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    if content[4:8] == b"TFL3":
        raise ModelError(f"{path} is a TFLite file: give the ONNX model that tf2onnx makes of it")
    try:
        model = onnx.ModelProto()
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{path} {_looks_like(content)}") from None
    if not model.HasField("graph") or not model.opset_import or not model.ir_version:
        raise ModelError(f"{path} {_looks_like(content)}")
    if not model.graph.node:
        raise ModelError(f"{path}: the graph has no nodes: there is nothing to compile")
    return model


def _broken_texts(message: Message) -> Iterator[bytes]:
    """Names and string attributes that are not UTF-8, which protobuf hands out as bytes where text is expected."""
    for field, value in message.ListFields():
        items: Any = [value] if isinstance(value, Message | str | bytes) else value
        if field.message_type is not None:
            for item in items:
                yield from _broken_texts(item)
        elif field.type == field.TYPE_STRING:
            yield from (item for item in items if isinstance(item, bytes))
        elif isinstance(message, onnx.AttributeProto) and field.name in ("s", "strings"):
            yield from (item for item in items if item.decode(errors="ignore").encode() != item)


def _looks_like(content: bytes) -> str:
    for magic, what in _FOREIGN.items():
        if content.startswith(magic):
            return f"is not an ONNX model but {what}"
    return "is not an ONNX model, or is truncated: export or copy it again"


def _load_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Load weights kept beside the model, after checking that each lies inside its folder and its file."""
    external = [(where, tensor) for where, tensor in _tensors(model) if uses_external_data(tensor)]
    total = sum(_check_external(path, where, tensor) for where, tensor in external)
    if total > MAX_BYTES:
        raise ModelError(f"{path}: {total / 1e9:.1f} GB of external weights: models of up to 2 GB are supported")
    if not external:
        return
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: external data can't be read: {one_line(error)}") from None


def _check_external(path: Path, where: str, tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor takes from its external file, which has to hold them."""
    try:
        info = ExternalDataInfo(tensor)
        offset, length = int(info.offset or 0), int(info.length or 0)
    except ValueError:
        raise ModelError(f"{path}: {where}: offset or length of its external data is not a number") from None
    location = str(info.location)
    folder = path.parent.resolve()
    at = f"{path}: {where}: external data {one_line(location)!r}"
    if not location or "\0" in location:
        raise ModelError(f"{path}: {where}: external data without a file name")
    if os.path.isabs(location) or ".." in Path(location).parts:
        raise ModelError(f"{at} is outside the model's folder: put it beside the model and name it relative to it")
    file = folder / location
    if not file.resolve().is_relative_to(folder):
        raise ModelError(f"{at} is a link out of the model's folder: copy the file itself there")
    if not file.exists():
        raise ModelError(f"{at} is missing: copy it beside the model")
    if not file.is_file():
        raise ModelError(f"{at} is not a regular file")
    size, expected = file.stat().st_size, _nbytes(path, where, tensor)
    if expected is not None and length and length != expected:
        raise ModelError(f"{at}: length {length} but shape and type need {expected} bytes: export the model again")
    needed = expected if expected is not None else length
    if offset < 0 or length < 0 or offset + needed > size:
        raise ModelError(f"{at} has {size} bytes, too few for {needed} at offset {offset}: truncated copy?")
    if expected == 0:
        tensor.ClearField("data_location")
        tensor.raw_data = b""
    elif not length and expected is not None:  # or all that is behind it would be read, however much that is
        tensor.external_data.add(key="length", value=str(expected))
    return needed


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Each tensor stored in the model, with words for where it is."""
    for graph in subgraphs(model.graph):
        for tensor in graph.initializer:
            yield f"initializer {one_line(tensor.name)!r}", tensor
        for sparse in graph.sparse_initializer:
            yield f"sparse initializer {one_line(sparse.values.name)!r}", sparse.values
        yield from _constants(graph.node)
    for function in model.functions:
        yield from _constants(function.node)


def _constants(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            held = [attribute.t] if attribute.HasField("t") else []
            for tensor in (*held, *attribute.tensors):
                yield f"constant of node {one_line(node.name or ''.join(node.output[:1]))!r}", tensor


def _count(path: Path, where: str, tensor: onnx.TensorProto) -> int:
    """Number of elements that the shape claims."""
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{path}: {where}: negative dimension in {list(tensor.dims)}: damaged file")
    return math.prod(tensor.dims)


def _nbytes(path: Path, where: str, tensor: onnx.TensorProto) -> int | None:
    """Size that shape and type imply, in bytes; None for strings, which have none."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    if tensor.data_type not in _BITS:
        raise ModelError(f"{path}: {where}: unknown data type {tensor.data_type}: damaged file")
    return (_count(path, where, tensor) * _BITS[tensor.data_type] + 7) // 8


def _bits_of_types() -> dict[int, int]:
    """Bits an element takes in raw_data, by ONNX data type."""
    packed = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
    bits = {}
    for name, number in onnx.TensorProto.DataType.items():
        if name not in ("UNDEFINED", "STRING"):
            bits[number] = packed.get(name) or onnx.helper.tensor_dtype_to_np_dtype(number).itemsize * 8
    return bits


_BITS = _bits_of_types()
_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)


def _check_tensor(path: Path, where: str, tensor: onnx.TensorProto) -> None:
    """A tensor whose data doesn't fill its shape would be read past its end, or allocate what it claims."""
    nbytes = _nbytes(path, where, tensor)
    if nbytes is None:
        return
    if tensor.HasField("raw_data"):
        found, needed, unit = len(tensor.raw_data), nbytes, "bytes"
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        count = _count(path, where, tensor)
        found, unit = sum(len(values) for values in fields), "values"
        # The field's entry is one element, one half of a complex, or a byte of packed ones.
        needed = 2 * count if tensor.data_type in _COMPLEX else count if _BITS[tensor.data_type] >= 8 else nbytes
    if found != needed:
        raise ModelError(
            f"{path}: {where}: {found} {unit} for shape {list(tensor.dims)}, which needs {needed}: damaged file"
        )


def _check_with_onnx(path: Path, model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(checkable(model))
    except onnx.checker.ValidationError as error:
        message = str(error)
        hint = "update onnx (pip install -U onnx)" if "ir_version" in message else "export the model again"
        raise ModelError(f"{path}: not a valid ONNX model: {one_line(message)}: {hint}") from None
    except ValueError as error:  # protobuf: over 2 GB
        raise ModelError(f"{path}: too large to check: {one_line(error)}") from None
