"""What PyTorch QAT exports write, and the passes that fold it."""

from __future__ import annotations

from preprocess.common import FINISH, FOLD, PREPARE
from preprocess.passlog import Pass

PASSES: tuple[Pass, ...] = (*PREPARE, *FOLD, *FINISH)
