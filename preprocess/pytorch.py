"""The forms of fake-quant in PyTorch QAT exports, and the passes that fold them.

Exporter or tool                  | weights                                     | activations
----------------------------------|-------------------------------------------|---------------------------------------
torch eager and FX, fused modules | Q -> DQ on W * f; Div f, BatchNorm behind   | Q -> Clip(0, 127) -> DQ; scales of [1]
torch converted, PT2E             | int8 -> DQ, int32 bias -> DQ or float bias  | casts and Constants between Q and DQ
Brevitas (QCDQ), AIMET, NNCF      | Q -> Clip -> DQ; per channel                | NNCF: per channel, FakeQuantize too
ModelOpt                          | Q -> DQ or DQ alone, also in float16        | only inputs of layers
MCT (fakely quantized), Quark     | float constants that lie on their grid      | Q -> DQ
"""

from __future__ import annotations

from preprocess.common import FINISH, FOLD, PREPARE
from preprocess.data_movement import dequantize_before_moves
from preprocess.inference_form import remove_identities
from preprocess.passlog import Pass
from preprocess.recover_weights import recover_weights

OWN: tuple[Pass, ...] = (
    dequantize_before_moves,  # before the clips, which look for the DQ right behind the integers
    remove_identities,  # which the pass before leaves at outputs of the network
    recover_weights,  # before the affine folds, which would blur float weights
)

PASSES: tuple[Pass, ...] = (*PREPARE, *OWN, *FOLD, *FINISH)
