"""The passes for a model without fake-quant: the form that calibration puts grids into.

Batch norms and other arithmetic per channel go into the layers in front, pads into the convolutions behind. Nothing was
trained to be rounded, so no fold can change a rounding.
"""

from __future__ import annotations

from preprocess.clips import merge_clips
from preprocess.common import FINISH, FOLD
from preprocess.float_interface import use_float_interface
from preprocess.inference_form import remove_identities
from preprocess.padding import fold_pads
from preprocess.passlog import Pass
from preprocess.prelu import write_prelu
from preprocess.views import merge_views

FLOAT = "float"
"""What stands for the framework in place of "pytorch" or "tensorflow"."""

PASSES: tuple[Pass, ...] = (
    use_float_interface,
    write_prelu,
    merge_clips,  # before the pads, which pass a Clip and neither a Min nor a Max
    remove_identities,
    fold_pads,
    merge_views,
    *FOLD,
    *FINISH,
)
"""Follow the passes of PREPARE in front of `require_fake_quant`."""
