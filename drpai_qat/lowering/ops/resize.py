"""Resize and Upsample over the spatial axes, nearest and linear."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.resize import Blend, resize_linear, resize_nearest
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import Value
from drpai_qat.lowering.fusion import lower_anchor
from drpai_qat.lowering.ops.pooling import STORABLE, scale_of, zero_of
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import channels_last
from drpai_qat.lowering.window import image_dims

Floats = npt.NDArray[np.float32]


def axis_scales(context: Context, node: Node) -> list[float]:
    """Scale of every axis: as the node gives it, else from the sizes and its policy for the aspect ratio."""
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    ratios = [o / i for o, i in zip(out_shape, in_shape, strict=True)]
    axes = [int(axis) % len(in_shape) for axis in node.attributes.get("axes") or range(len(in_shape))]
    given = _numbers(context, node, 1 if node.op == "Upsample" else 2) or node.attributes.get("scales")
    if given is not None:
        for axis, scale in zip(axes, given, strict=True):
            ratios[axis] = float(scale)
        return ratios
    policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
    sizes = _numbers(context, node, 3)
    if policy != "stretch" and sizes is not None:
        wanted = [size / in_shape[axis] for axis, size in zip(axes, sizes, strict=True)]
        for axis in axes:
            ratios[axis] = min(wanted) if policy == "not_larger" else max(wanted)
    return ratios


def _numbers(context: Context, node: Node, index: int) -> list[float] | None:
    """A constant operand's values; None where it is missing, empty or not constant."""
    value = context.graph.constant(node.inputs[index]) if len(node.inputs) > index and node.inputs[index] else None
    return None if value is None or not value.size else [float(v) for v in value.reshape(-1)]


def source_positions(mode: str, in_size: int, out_size: int, scale: float) -> Floats | None:
    """Position in the input of each output position, ONNX's coordinate transformation; None for modes not served."""
    x = np.arange(out_size, dtype=np.float32)
    s = np.float32(scale)
    half, one = np.float32(0.5), np.float32(1)
    match mode:
        case "half_pixel":
            return (x + half) / s - half
        case "pytorch_half_pixel":
            return (x + half) / s - half if out_size > 1 else np.zeros_like(x)
        case "asymmetric":
            return x / s
        case "align_corners":
            return x * np.float32(in_size - 1) / np.float32(max(out_size - 1, 1)) if out_size > 1 else np.zeros_like(x)
        case "tf_half_pixel_for_nn":
            return (x + half) / s
        case "half_pixel_symmetric":
            adjustment = np.float32(out_size) / (s * np.float32(in_size))
            center = np.float32(in_size) / np.float32(2)
            return center * (one - adjustment) + (x + half) / s - half
    return None


def nearest_index(positions: Floats, rounding: str, in_size: int) -> npt.NDArray[np.int64]:
    """Input index of each output position; `rounding` is ONNX's nearest_mode."""
    half = np.float32(0.5)
    match rounding:
        case "round_prefer_floor":
            rounded = np.ceil(positions - half)
        case "round_prefer_ceil":
            rounded = np.floor(positions + half)
        case "floor":
            rounded = np.floor(positions)
        case _:
            rounded = np.ceil(positions)
    return np.clip(rounded, 0, in_size - 1).astype(np.int64)


def blend(positions: Floats, in_size: int) -> Blend:
    clipped = np.clip(positions, 0, in_size - 1)
    left = np.floor(clipped).astype(np.int64)
    right = np.minimum(left + 1, in_size - 1)
    return Blend(left, right, (clipped - left).astype(np.float32))


@lowers("Resize", "Upsample")
def lower_resize(context: Context, node: Node) -> bool:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    rank = len(in_shape)
    mode = str(node.attributes.get("mode", "nearest"))
    if rank not in (3, 4) or mode not in ("nearest", "linear") or in_shape[:2] != out_shape[:2]:
        return False
    if node.attributes.get("antialias", 0) or node.attributes.get("exclude_outside", 0):
        return False
    scales = axis_scales(context, node)
    default = "asymmetric" if node.op == "Upsample" else "half_pixel"
    transformation = str(node.attributes.get("coordinate_transformation_mode", default))
    axes = []
    for axis in range(2, rank):
        positions = source_positions(transformation, in_shape[axis], out_shape[axis], scales[axis])
        if positions is None:
            return False
        axes.append(positions)
    if rank == 3:
        axes.insert(0, np.zeros(1, np.float32))
    order = channels_last(rank)
    data = context.ordered(context.operand(node.inputs[0]), order)
    if data.dtype not in STORABLE:
        return False
    dims = image_dims(in_shape)
    if mode == "nearest":
        rounding = str(node.attributes.get("nearest_mode", "floor" if node.op == "Upsample" else "round_prefer_floor"))
        rows, columns = (nearest_index(p, rounding, dims[1 + i]) for i, p in enumerate(axes))
        kernel = resize_nearest(dims, rows, columns, data.dtype, context.isa)
        context.put(node.output, context.kernel(kernel, (data,), "resize"), order, data.grid, data.dtype)
        context.record(node, "view")
        return True
    row_blend, column_blend = (blend(p, dims[1 + i]) for i, p in enumerate(axes))
    anchor = Value(E.affine(E.Acc(), scale_of(data)))
    lower_anchor(
        context, node, anchor, order,
        lambda epilogue: resize_linear(dims, row_blend, column_blend, data.dtype, epilogue, context.isa, zero_of(data)),
        (data,), "resize",
    )  # fmt: skip
    context.record(node, "float32" if data.grid is None else "int8")
    return True
