"""Lowerings of operators, one family a module. Importing this package registers all of them."""

from drpai_qat.lowering.ops import (
    choosing,
    conv,
    conv_transpose,
    elementwise,
    layout,
    matrix,
    normalization,
    pooling,
    resize,
)

__all__ = [
    "choosing",
    "conv",
    "conv_transpose",
    "elementwise",
    "layout",
    "matrix",
    "normalization",
    "pooling",
    "resize",
]
