"""The passes that every framework's pipeline shares, in their order.

A pipeline is PREPARE, what the framework needs of its own, FOLD, FINISH.
"""

from __future__ import annotations

from preprocess.activations import clip_before_quantize
from preprocess.affine import fold_affine_steps
from preprocess.arithmetic import recognize_arithmetic
from preprocess.biases import canonical_biases
from preprocess.channel_grids import fold_depthwise_scales, scale_channels_outside
from preprocess.constants import fold_constants, unshare_small_constants
from preprocess.data_movement import dequantize_before_moves
from preprocess.detection import require_fake_quant
from preprocess.fake_quantize import translate_fake_quantize
from preprocess.inference import name_nodes, remove_identities, use_inference_batchnorm
from preprocess.integers import canonical_weights
from preprocess.opening import allow_16_bit_grids
from preprocess.pairs import drop_repeated_grids, match_pairs, merge_equal_nodes
from preprocess.passlog import Pass
from preprocess.precision import remove_idle_casts, use_float32
from preprocess.quantize_nodes import complete_quantize_nodes
from preprocess.shapes import infer_shapes, make_shapes_static, require_static_shapes
from preprocess.weights import fold_weight_fake_quant

PREPARE: tuple[Pass, ...] = (
    name_nodes,  # first: messages of all that follows name nodes
    remove_identities,  # shared parameters hide behind Identity
    use_inference_batchnorm,
    use_float32,  # before shape inference, which would hold on to the half-precision types
    fold_constants,  # exports without constant folding leave scale factors as Sqrt, Div, Reshape, Mul, Cast
    unshare_small_constants,
    translate_fake_quantize,  # before shape inference, which does not know the operator
    make_shapes_static,
    remove_idle_casts,  # needs the inferred types
    recognize_arithmetic,
    require_fake_quant,
    complete_quantize_nodes,  # needs constant scales; every later pass reads Q/DQ nodes through params_of
)
"""After these: no Identity, Constant or Dropout; constants are initializers except behind Q/DQ; shapes are static."""

FOLD: tuple[Pass, ...] = (
    fold_weight_fake_quant,  # before the layers are looked at: their weights are then integers behind one DQ
    dequantize_before_moves,  # before the clips: they look for the DQ right behind the integers
    remove_identities,  # what the pass before leaves at outputs of the network
    clip_before_quantize,
    scale_channels_outside,  # after the clips, which need the integers next to their Q
    match_pairs,
    merge_equal_nodes,  # before the next: a pair that is a twin hides that its grid repeats
    drop_repeated_grids,
    fold_affine_steps,  # after the pairs are final: a rounding that stays stops it
    fold_depthwise_scales,
    canonical_weights,  # last on weights: affine folds may flip signs
    canonical_biases,  # needs the final scales of weights
)
"""Fake-quant and batch norm to canonical form."""

FINISH: tuple[Pass, ...] = (
    allow_16_bit_grids,
    infer_shapes,  # value infos for the tensors that passes made
    require_static_shapes,
)
