"""The folder where things are kept between runs: kernels, and runtime libraries for boards."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def user_cache() -> Path | None:
    """$DRPAI_QAT_CACHE_DIR, else the system's place (~/.cache/drpai-qat, or below $XDG_CACHE_HOME); None: no home."""
    named = os.environ.get("DRPAI_QAT_CACHE_DIR")
    folder = Path(named) if named else platformdirs.user_cache_path("drpai-qat")
    return folder if named or folder.is_absolute() else None
