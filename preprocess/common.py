"""The passes that every framework's pipeline shares, in their order.

A pipeline is PREPARE, what the framework needs of its own, FOLD, FINISH. Each "before" and "after" has a small model in
tests/preprocess/test_pass_order.py that needs it.
"""

from __future__ import annotations

from preprocess.activations import clip_before_quantize
from preprocess.affine import fold_affine_steps
from preprocess.biases import canonical_biases
from preprocess.blocked_weights import split_blocks
from preprocess.channel_grids import fold_depthwise_scales, scale_channels_outside
from preprocess.clamps import write_clamps
from preprocess.constants import fold_constants, unshare_small_constants
from preprocess.custom_quantizers import translate_custom_quantizers
from preprocess.dead_channels import blank_dead_channels
from preprocess.detection import require_fake_quant
from preprocess.dynamic import translate_dynamic
from preprocess.fake_quantize import translate_fake_quantize
from preprocess.float_interface import use_float_interface
from preprocess.fused_operators import translate_fused_operators
from preprocess.inference_form import name_nodes, remove_identities, use_inference_batchnorm
from preprocess.int8_weights import canonical_weights
from preprocess.layer_norm import write_layer_norm
from preprocess.loops import write_out_loops
from preprocess.lost_sums import refuse_lost_sums
from preprocess.misfits import refuse_misfits
from preprocess.opening import allow_16_bit_grids
from preprocess.padding import explicit_pads
from preprocess.pairs import drop_repeated_grids, match_pairs, merge_equal_nodes
from preprocess.passlog import Pass
from preprocess.precision import remove_idle_casts, use_float32
from preprocess.qonnx import translate_qonnx
from preprocess.qoperators import translate_qoperators
from preprocess.quantize_nodes import complete_quantize_nodes
from preprocess.served_forms import write_served_forms
from preprocess.shape_inference import make_shapes_static, require_static_shapes
from preprocess.sizes import refuse_too_large
from preprocess.undefined import warn_if_undefined
from preprocess.warnings import warn_if_never_calibrated
from preprocess.weights import fold_weight_fake_quant
from preprocess.wide_nodes import split_wide_nodes
from preprocess.written_out import recognize_arithmetic

PREPARE: tuple[Pass, ...] = (
    name_nodes,  # first: the messages of all other passes name nodes
    remove_identities,  # before patterns are looked for, node by node, in arithmetic and in views
    use_inference_batchnorm,
    use_float32,  # before constants are evaluated: onnxruntime computes in few other types
    fold_constants,  # exports without constant folding leave scale factors as Sqrt, Div, Reshape, Mul, Cast
    write_out_loops,  # after their counts are constants, before dialects in their bodies are translated
    unshare_small_constants,  # after Constant nodes became initializers
    translate_qoperators,  # after scales are constants, before shape inference, which does not know onnxruntime's
    translate_fused_operators,  # before shape inference likewise
    translate_custom_quantizers,  # after scales are constants, before shape inference likewise
    translate_qonnx,  # after scales are constants, before shape inference likewise
    translate_fake_quantize,  # after its ranges are constants, before shape inference, which does not know it
    translate_dynamic,  # after scales are constants, before shape inference likewise
    make_shapes_static,
    refuse_too_large,  # needs shapes; before anything is computed from weights
    refuse_misfits,  # needs shapes; before passes that take them at their word
    split_wide_nodes,  # needs shapes, which it infers for what it makes; before Concat is looked at
    write_served_forms,  # needs shapes; before weights are looked for
    explicit_pads,  # needs shapes
    remove_idle_casts,  # needs the inferred types
    write_layer_norm,  # needs shapes; after casts within it are gone, before its Reshape nodes move as views do
    warn_if_never_calibrated,  # before passes that make grids of scale 1 of their own
    write_clamps,  # after limits are expanded to the shapes of what they limit
    recognize_arithmetic,  # after casts within it are gone, and limits are Clip, Min and Max
    require_fake_quant,  # after every form of fake-quant is Q/DQ
    use_float_interface,  # TFLite files, images as bytes: before integers are moved, as every grid then starts at a Q
    blank_dead_channels,  # before scales are checked
    complete_quantize_nodes,  # needs shapes and constant scales; every later pass reads Q/DQ nodes through params_of
)
"""Behind these, invariants 4 and 5 of validate.py hold, and nothing but Q/DQ nodes reads constants alone."""

FOLD: tuple[Pass, ...] = (
    split_blocks,  # before what is left of block-wise constants becomes float
    fold_weight_fake_quant,  # before the layers are looked at: their weights are then integers behind one DQ
    clip_before_quantize,
    scale_channels_outside,  # after the clips and casts between Q and DQ are gone
    match_pairs,  # likewise
    drop_repeated_grids,
    merge_equal_nodes,  # after both: they let two DQ nodes become equal
    fold_affine_steps,  # after channels are scaled outside: a division behind a layer goes into its scale
    fold_depthwise_scales,
    canonical_weights,  # after the affine folds, which may flip signs
    canonical_biases,  # after all that changes the scales of weights or of a layer's input
    refuse_lost_sums,  # after weights are integers behind one DQ
)
"""Behind these, all invariants of the graph hold."""

FINISH: tuple[Pass, ...] = (
    allow_16_bit_grids,
    require_static_shapes,
    warn_if_undefined,  # of what is left when all is folded
)
"""Behind these, the model is canonical."""
