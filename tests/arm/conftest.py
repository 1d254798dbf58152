"""Arm tests need a cross compiler and the Arm64 Python that setup_arm64.sh sets up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def arm64() -> Path:
    """Folder of the Arm64 Python: DRPAI_QAT_ARM64, or build/arm64."""
    folder = Path(os.environ.get("DRPAI_QAT_ARM64", ROOT / "build" / "arm64"))
    if not (folder / "python").is_file():
        pytest.fail(f"no Arm64 Python in {folder}: run tests/arm/setup_arm64.sh")
    for program in ("aarch64-linux-gnu-gcc", "qemu-aarch64-static"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing: run tests/arm/setup_arm64.sh")
    return folder
