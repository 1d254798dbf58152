"""The forms of fake-quant that tf2onnx writes from TensorFlow models, and the passes that fold them.

From tfmot: activations as QuantizeLinear -> DequantizeLinear with uint8 scalars, weights as float constants on their
grid, often with batch norm multiplied in, NHWC tensors between Transpose nodes. From int8 TFLite files: Q/DQ on
everything, int8 weights and int32 biases.
"""

from __future__ import annotations

from preprocess.clips import merge_clips
from preprocess.common import FINISH, FOLD, PREPARE
from preprocess.data_movement import dequantize_before_moves
from preprocess.padding import fold_pads
from preprocess.passlog import Pass
from preprocess.prelu import write_prelu
from preprocess.recover_weights import recover_weights
from preprocess.views import merge_views, sink_views

OWN: tuple[Pass, ...] = (
    write_prelu,
    merge_clips,  # before the pads, which pass a Clip and neither a Min nor a Max
    sink_views,  # a view between a layer and its Q goes behind the Q, so that bias, ReLU and Q are next to the layer
    dequantize_before_moves,
    fold_pads,
    merge_views,  # after all three: the views around one operator now meet those around the next
    recover_weights,  # before the affine folds, which would blur float weights
)

PASSES: tuple[Pass, ...] = (*PREPARE, *OWN, *FOLD, *FINISH)
