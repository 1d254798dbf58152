"""Calibration on a Dask cluster."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import onnx
import pytest

import drpai_qat
from drpai_qat.core.errors import WorkerError
from tests.calibration.float_models import frames, residual

pytestmark = pytest.mark.slow
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    onnx.save(residual(), folder / "net.onnx")
    np.savez(folder / "data.npz", x=np.concatenate([one["x"] for one in frames(residual(), 60)]))
    return folder


def ranges(place, **options):
    """What calibration finds, and the canonical model."""
    out = place / "out"
    data = options.pop("calibration", place / "data.npz")
    drpai_qat.compile(place / "net.onnx", output_dir=out, calibration=data, check="none", **options)
    told = json.loads((out / "report.json").read_text())["calibration"]
    assert told["frames"] == 60
    return (out / "model_int8.onnx").read_bytes()


@pytest.mark.parametrize("method", ["mse", "moving_average"])
def test_the_same_as_in_one_process(method, place, cluster):
    """The workers see none of the files: model and frames are sent."""
    wanted = ranges(place, calibrate_method=method)
    assert ranges(place, calibrate_method=method, scheduler=cluster.scheduler_address) == wanted


def test_a_worker_that_dies_costs_its_shards_alone(place, cluster):
    read = []

    def generator():
        for one in frames(residual(), 60):
            read.append(1)
            if len(read) in (90, 150):  # the first 60 are read for the frames that stay in memory, here
                os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
            yield one

    wanted = ranges(place, calibration=lambda: iter(frames(residual(), 60)))
    assert ranges(place, calibration=generator, scheduler=cluster.scheduler_address) == wanted
    assert len(read) >= 180


@pytest.mark.parametrize(("ends", "says"), [("scale", "no worker is left"), ("close", "the scheduler is gone")])
def test_a_cluster_that_ends(ends, says, place, monkeypatch):
    monkeypatch.setattr("drpai_qat.core.worker_cluster._PATIENCE", 1 if ends == "scale" else 60)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        read = []

        def generator():
            for one in frames(residual(), 60):
                read.append(1)
                if len(read) == 80:  # of the second reading, which the cluster has a part in
                    cluster.scale(0) if ends == "scale" else cluster.close()
                yield one

        with pytest.raises(WorkerError, match=f"--scheduler tcp://.*: {says}"):
            ranges(place, calibration=generator, scheduler=cluster.scheduler_address)
