"""The passes that every framework's pipeline shares, in their order.

A pipeline is PREPARE, what the framework needs of its own, FOLD, FINISH.
"""

from __future__ import annotations

from preprocess.constants import fold_constants
from preprocess.inference import remove_identities, use_inference_batchnorm
from preprocess.passlog import Pass
from preprocess.shapes import infer_shapes, make_shapes_static

PREPARE: tuple[Pass, ...] = (
    remove_identities,  # shared parameters hide behind Identity: constants must be seen as such by all that follows
    use_inference_batchnorm,
    fold_constants,  # exports without constant folding leave scale factors as Sqrt, Div, Reshape, Mul, Cast
    make_shapes_static,
)
"""After these: no Identity, Constant or Dropout; constants are initializers except behind Q/DQ; shapes are static."""

FOLD: tuple[Pass, ...] = ()
"""Fake-quant and batch norm to canonical form."""

FINISH: tuple[Pass, ...] = (
    infer_shapes,  # value infos for the tensors that passes made
)
