"""What tf2onnx writes from tfmot models, and the passes that fold it."""

from __future__ import annotations

from preprocess.common import FINISH, FOLD, PREPARE
from preprocess.passlog import Pass

PASSES: tuple[Pass, ...] = (*PREPARE, *FOLD, *FINISH)
