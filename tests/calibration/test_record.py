"""Ranges kept in a folder, and taken from there."""

import json

import numpy as np
import onnx
import pytest

import drpai_qat
import preprocess
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.record import Record
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Silent
from tests.calibration.float_models import frames, residual
from tests.small_models import qdq_model


class Counted(list):
    """Frames that know how many of them were read."""

    read = 0

    def __iter__(self):
        for one in super().__iter__():
            self.read += 1
            yield one


def quantized(record, data, recipe=None):
    folded = preprocess.preprocess(residual(), may_be_float=True).model
    return quantize_float(folded, data, recipe or Recipe(equalizes=False, corrects=False), Silent(), record=record)


def test_a_second_run_takes_recorded_ranges(tmp_path):
    data, record = Counted(frames(residual())), Record(tmp_path / "made" / "ranges", "data.npz")
    first = quantized(record, data)
    assert (first.reused, data.read) == (False, 16)  # two passes
    data.read = 0
    second = quantized(record, data)
    assert (second.reused, second.frames, data.read) == (True, 8, 8)  # read, to see whether they are the same
    assert second.model == first.model
    assert quantized(
        record, data, Recipe(equalizes=False, corrects=False, symmetric=True)
    ).reused  # the grid of the same range
    told = json.loads(record.path.read_text())
    assert set(told["ranges"]) == set(first.tensors)
    assert told["of"]["data"]["name"] == "data.npz"


@pytest.mark.parametrize(
    ("data", "name", "recipe"),
    [
        ([*frames(residual())[:-1], frames(residual(), 1, seed=1)[0]], "data.npz", Recipe()),
        (frames(residual(), 4), "data.npz", Recipe()),
        (frames(residual()), "other.npz", Recipe()),
        (frames(residual()), "data.npz", Recipe(method="minmax")),
    ],
)
def test_what_was_recorded_for_anything_else_is_not_used(tmp_path, data, name, recipe):
    quantized(Record(tmp_path, "data.npz"), frames(residual()))
    record = Record(tmp_path, name)
    assert not quantized(record, data, recipe).reused
    assert quantized(record, data, recipe).reused  # replaced


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 100000, '{"of": {}, "frames": 1, "seen_of": [], "ranges": {"x": [0, NaN]}}', '{"ranges": 1}'],
)
def test_what_is_no_record_is_named(tmp_path, text):
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(OptionError, match=r"ranges.json is no record of ranges: remove it"):
        quantized(Record(tmp_path, "data.npz"), frames(residual()))


def test_through_the_command(tmp_path, capsys):
    onnx.save(residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([one["x"] for one in frames(residual())]))
    arguments = ["--calibration", str(tmp_path / "data.npz"), "-r", str(tmp_path / "kept"), "--check", "none"]
    for count, says in enumerate(("ranges recorded in kept", "ranges taken from kept")):
        out = tmp_path / f"out{count}"
        assert compile_main([str(tmp_path / "net.onnx"), "-o", str(out), *arguments]) == 0
        assert says in " ".join(capsys.readouterr().out.split())
        assert json.loads((out / "report.json").read_text())["calibration"]["record"]["reused"] == bool(count)
    one, other = ((tmp_path / out / "model_int8.onnx").read_bytes() for out in ("out0", "out1"))
    assert one == other


def test_where_there_is_nothing_to_record(tmp_path):
    onnx.save(qdq_model(), tmp_path / "net.onnx")
    for qat_type in ("pytorch", None):
        with pytest.raises(OptionError, match="-r: nothing to record without"):
            drpai_qat.compile(
                tmp_path / "net.onnx", output_dir=tmp_path / "out", record_dir=str(tmp_path / "kept"), qat_type=qat_type
            )
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="can't be written"):
        Record(tmp_path / "file", "data")
    assert not (tmp_path / "kept").exists()
