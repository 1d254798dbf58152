from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import drpai_qat
from drpai_qat.core.errors import OptionError
from drpai_qat.runtimes.onnxruntime import Reference
from tests.small_models import qdq_model

pytestmark = pytest.mark.slow
distributed = pytest.importorskip("distributed")

FUNCTIONS = """
import os
from pathlib import Path
import numpy as np
HERE = Path(__file__).parent
def pairs():
    file = np.load(HERE / "data.npz")
    for x, y in zip(file["x"], file["y"]):
        yield x[None], y
def dying():
    if not (HERE / "died").exists():
        (HERE / "died").touch()
        os._exit(9)
    yield from pairs()
def wrong():
    yield np.zeros(3), 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("cluster")
    x = np.random.default_rng(1).normal(0, 1.5, (300, 3, 8, 8)).astype(np.float32)
    model = qdq_model()
    (place / "float.onnx").write_bytes(model.SerializeToString())
    reference = Reference(model, "float")
    np.savez(place / "data.npz", x=x, y=[int(reference.run({"x": one[None]})["y"].argmax()) for one in x])
    (place / "their_data.py").write_text(FUNCTIONS)
    return place


@pytest.fixture(scope="module")
def scheduler():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def comparable(found):
    content = found.to_json()
    del content["data"]
    for network in content["networks"]:
        del network["latency_ms"]
    return content


@pytest.mark.parametrize("function", ["", "pairs", "dying"])
def test_the_same_as_in_one_process(function, folder, scheduler, small_output):
    """Also where a worker dies in the middle."""
    alone = drpai_qat.evaluate(small_output, data=folder / "data.npz", against=folder / "float.onnx")
    data = f"{folder}/their_data.py:{function}" if function else folder / "data.npz"
    told: list[int] = []
    shared = drpai_qat.evaluate(
        small_output, data=data, against=folder / "float.onnx", scheduler=scheduler, progress=told.append
    )
    assert comparable(shared) == comparable(alone)
    assert sum(told) == 300
    assert len(told) > 1
    assert (folder / "died").exists() == (function == "dying")


def test_errors_of_workers_come_back(folder, scheduler, small_output):
    with pytest.raises(OptionError, match=r"input 'x' has shape \[3\]"):
        drpai_qat.evaluate(small_output, data=f"{folder}/their_data.py:wrong", scheduler=scheduler)


def test_no_scheduler(folder, small_output, monkeypatch):
    monkeypatch.setattr("drpai_qat.core.worker_cluster._TIMEOUT", 1)
    with pytest.raises(OptionError, match=r"--scheduler tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        drpai_qat.evaluate(small_output, data=folder / "data.npz", scheduler="tcp://127.0.0.1:9")
