from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import drpai_qat
from tests.small_models import qdq_model

MODELS = Path(__file__).parent / "models"

# A shell starts what it runs in the background with these ignored, and every process below would inherit that.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# How hypothesis draws cases: the same ones every time, or others (`make test CASES=random`; a failure prints how to
# repeat it). No clock decides: a case may take as long as a busy machine needs, and networks take many draws.
settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("random", settings.get_profile("fixed"), derandomize=False, print_blob=True)
settings.load_profile("fixed")


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
