from __future__ import annotations

import os
from pathlib import Path

import pytest

import drpai_qat
from tests.small_models import qdq_model

MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of the test run's own, which its processes share."""
    base = tmp_path_factory.getbasetemp()
    os.environ["DRPAI_QAT_CACHE_DIR"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")


@pytest.fixture(scope="session")
def models() -> Path:
    """Folder of real QAT exports."""
    return MODELS


@pytest.fixture(scope="session")
def small_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a small compiled network. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("small")
    model = folder / "small.onnx"
    model.write_bytes(qdq_model().SerializeToString())
    drpai_qat.compile(model, qat_type="pytorch", output_dir=folder / "out")
    return folder / "out"
