"""What tf2onnx writes from tfmot models, and the passes that fold it."""

from __future__ import annotations

from preprocess.common import FINISH, FOLD, PREPARE
from preprocess.data_movement import dequantize_before_moves, use_float_interface
from preprocess.passlog import Pass
from preprocess.recover_weights import recover_weights

OWN: tuple[Pass, ...] = (
    use_float_interface,  # TFLite files with int8 input: after it, every grid starts at a QuantizeLinear
    dequantize_before_moves,
    recover_weights,  # before affine folds: they scale the recovered integers, or would blur the grid
)

PASSES: tuple[Pass, ...] = (*PREPARE, *OWN, *FOLD, *FINISH)
