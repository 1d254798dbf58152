"""Passes over data: shared among processes, and interrupted."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

import preprocess
from drpai_qat.calibration import passes, unfinished
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.collection import Observed
from drpai_qat.calibration.passes import Passes
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.record import Record
from drpai_qat.calibration.seen import Seen
from drpai_qat.core.errors import MissingExtraError, ModelError
from drpai_qat.core.progress import Silent
from drpai_qat.core.workers import ALONE, Sharing
from tests.calibration.float_models import frames, residual

SCRIPT = Path(__file__).parents[2] / "compile_onnx_model_quant.py"
NAMES = ("x", "r1", "m2", "k", "g")
COUNT = 22


def data(count=COUNT):
    """Frames of ranges that differ much, one of them all NaN."""
    found = [{"x": one["x"] * np.float32(1 + at % 7)} for at, one in enumerate(frames(residual(), count))]
    found[1]["x"][:] = np.nan
    return found


class Stopped(list):
    """Frames that stop when so many have been read, in whichever pass."""

    def __init__(self, items, after, how):
        super().__init__(items)
        self.left, self.how = after, how

    def __iter__(self):
        for one in super().__iter__():
            if self.left == 0:
                self.how()
            self.left -= 1
            yield one


def seen(sharing, given=None):
    folded = preprocess.preprocess(residual(), may_be_float=True).model
    found = Seen.nothing(NAMES)
    passing = Passes.of(Observed(folded, NAMES), data() if given is None else given, sharing, None)
    with passing.workers:
        passing.run(found, Silent())
        found.end_first_pass()
        passing.run(found, Silent(), found.ends_by_name())
    return found


def equal(one, other):
    assert one.ends == other.ends
    assert (one.whole, one.mark) == (other.whole, other.mark)
    assert np.array_equal(one.counts, other.counts)
    assert np.array_equal(one.zeros, other.zeros)
    return True


def test_whoever_shares_the_frames_finds_the_same(monkeypatch):
    """Also where a worker is killed in the middle of each pass."""
    monkeypatch.setattr(passes, "_MOST_THREADS", 1)
    wanted = seen(ALONE)
    assert wanted.mark.frames == COUNT
    assert wanted.ends[0].frames == COUNT - 1
    assert wanted.counts.sum() > 0
    monkeypatch.setattr(passes, "_MOST_THREADS", 8)
    assert equal(seen(ALONE), wanted)

    def kill():
        one = min(psutil.Process().children(), key=lambda child: child.pid)
        one.kill()
        killed.append(one)

    killed: list[psutil.Process] = []
    assert equal(seen(Sharing(2), Stopped(data(), COUNT + 15, kill)), wanted)
    assert len(killed) == 1


def test_errors_of_workers_come_back():
    given = [*data(3), {"x": np.zeros((1, 3, 8, 8), np.float32)}]
    for sharing in (ALONE, Sharing(2)):
        with pytest.raises(
            ModelError, match="the model to calibrate: onnxruntime can't run it: Got invalid dimensions"
        ):
            seen(sharing, given)


def test_a_cluster_needs_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"--scheduler: .*pip install 'drpai-qat\[distributed\]'"):
        seen(Sharing(scheduler="tcp://127.0.0.1:9"))


class TestInterrupted:
    """-r DIR goes on where it was."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch):
        monkeypatch.setattr(unfinished, "_EVERY", 0)

    def quantized(self, folder, given, method="mse", sharing=ALONE):
        folded = preprocess.preprocess(residual(), may_be_float=True).model
        recipe, stages = Recipe(method=method, equalizes=False, corrects=False), Silent()
        record = None if folder is None else Record(folder, "data.npz")
        found = quantize_float(folded, given, recipe, stages, record=record, sharing=sharing)
        return found.model, " ".join(stages.seconds)

    def interrupted(self, folder, given, after):
        def interrupt():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.quantized(folder, Stopped(given, after, interrupt))
        assert [one.name for one in folder.iterdir()] == ["unfinished.npz"]

    @pytest.mark.parametrize(
        ("after", "sharing"), [(COUNT - 1, ALONE), (2 * COUNT - 1, ALONE), (2 * COUNT - 1, Sharing(2))]
    )
    def test_the_result_is_the_same(self, after, sharing, tmp_path):
        self.interrupted(tmp_path, data(), after)
        model, told = self.quantized(tmp_path, data(), sharing=sharing)
        assert model == self.quantized(None, data())[0]
        (frame,) = re.findall(r"from frame (\d+) on", told)
        assert 1 < int(frame) <= COUNT
        assert [one.name for one in tmp_path.iterdir()] == ["ranges.json"]

    @pytest.mark.parametrize("what", ["a frame", "fewer frames", "the method", "no file of ours"])
    def test_what_belongs_to_something_else_is_ignored(self, what, tmp_path):
        self.interrupted(tmp_path, data(), 2 * COUNT - 1)
        given = data()
        if what == "a frame":
            given[3]["x"][0, 0, 0, 0] += 1
        elif what == "fewer frames":
            given = given[:4]
        elif what == "no file of ours":
            path = tmp_path / "unfinished.npz"
            path.write_bytes(path.read_bytes()[:-2000])
        method = "percentile" if what == "the method" else "mse"
        model, told = self.quantized(tmp_path, given, method)
        assert ("finding the ranges of activations, anew: the frames are others" in told) == (what == "a frame")
        assert model == self.quantized(None, given, method)[0]
        assert [one.name for one in tmp_path.iterdir()] == ["ranges.json"]


ENDLESS = """
import itertools, time
from pathlib import Path
import numpy as np
starts = itertools.count()
def endless():
    numbers = itertools.count() if next(starts) else range(4)  # the frames that stay in memory are read first
    for number in numbers:
        if number == 30:
            Path("reading").touch()
        time.sleep(0.01)
        yield np.ones((1, 3, 16, 16), np.float32)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_ctrl_c_leaves_no_process(number, status, tmp_path):
    """All processes of the terminal's group get it, wherever they are."""
    onnx.save(residual(), tmp_path / "net.onnx")
    (tmp_path / "their_data.py").write_text(ENDLESS)
    arguments = ["net.onnx", "-o", "out", "--calibration", "their_data:endless", "-r", "kept", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "reading").exists():
        assert process.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    output, told = process.communicate(timeout=60)
    assert process.returncode == status
    assert told.splitlines()[-1] == "interrupted"
    assert "Traceback" not in told
    assert output == ""
    assert len(workers) == 2
    assert not any(one.is_running() for one in workers)
    assert {one.name for one in tmp_path.iterdir()} - {"kept", "__pycache__"} == {
        "net.onnx",
        "reading",
        "their_data.py",
    }
    assert not (tmp_path / "kept").exists() or [one.name for one in (tmp_path / "kept").iterdir()] == ["unfinished.npz"]
