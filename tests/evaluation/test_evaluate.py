from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import drpai_qat
from drpai_qat.cli.main import main
from drpai_qat.core.errors import OptionError, WorkerError
from drpai_qat.data.labelled import open_data
from drpai_qat.evaluation.feeding import Feeding
from drpai_qat.evaluation.networks import open_network
from drpai_qat.runtimes.onnxruntime import Reference
from tests.small_models import qdq_model

COUNT = 37
FUNCTIONS = """
import os
from dataclasses import replace
from pathlib import Path
import numpy as np

def pairs():
    file = np.load("data.npz")
    for x, y in zip(file["x"], file["y"]):
        yield x[None], y

def dying():
    if not Path("died").exists():
        Path("died").touch()
        os._exit(9)
    yield from pairs()

def doomed():
    if os.getpid() != int(Path("parent").read_text()):
        os._exit(9)
    yield from pairs()

def hits(outputs, labels):
    assert outputs.shape == (len(labels), 4)
    return (outputs.argmax(1) == labels).mean()

class Largest:
    def __init__(self):
        self.value = 0.0
    def update(self, outputs, label):
        self.value = max(self.value, float(outputs.max()))
    def compute(self):
        return {"largest": self.value, "seven": 7}

def failing(outputs, labels):
    raise KeyError("box")

def text(outputs, labels):
    return "good"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_output):
    """Random inputs whose answers are the float model's, but for every fourth, and a network of a tenth of its bits."""
    place = tmp_path_factory.mktemp("evaluate")
    x = np.random.default_rng(1).normal(0, 1.5, (COUNT, 3, 8, 8)).astype(np.float32)
    model = qdq_model()
    (place / "float.onnx").write_bytes(model.SerializeToString())
    reference = Reference(model, "float")
    y = np.array([int(reference.run({"x": one[None]})["y"].argmax()) for one in x])
    y[::4] = (y[::4] + 1) % 4
    np.savez(place / "data.npz", x=x, y=y)
    np.savez(place / "more_classes.npz", x=x, y=y + 7)
    (place / "their_functions.py").write_text(FUNCTIONS)
    return place


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{Path(drpai_qat.__file__).parents[1]}:{folder}")


def test_accuracy_beside_the_float_models(folder, small_output):
    told: list[int] = []
    found = drpai_qat.evaluate(small_output, data="data.npz", against="float.onnx", progress=told.append)
    wrong = len(range(0, COUNT, 4))
    assert found.scores[1].correct == COUNT - wrong
    assert found.agreement is not None
    assert found.scores[0].correct in range(COUNT - wrong - len(found.changed), COUNT - wrong + len(found.changed) + 1)
    assert sum(told) == found.count == COUNT
    network, data = drpai_qat.load(small_output), np.load("data.npz")
    answers = network.run({"x": data["x"]})["y"].argmax(1)
    assert found.accuracy() == pytest.approx((answers == data["y"]).mean())
    assert found.scores[0].correct_in_5 is None  # of four classes


@pytest.mark.parametrize("data", ["data.npz", "their_functions:dying"])
def test_processes_give_the_same(data, folder, small_output):
    (folder / "died").unlink(missing_ok=True)
    one = drpai_qat.evaluate(small_output, data="data.npz", against="float.onnx").to_json()
    two = drpai_qat.evaluate(small_output, data=data, against="float.onnx", workers=2).to_json()
    for found in (one, two):
        del found["data"]
        for network in found["networks"]:
            del network["latency_ms"]
    assert one == two


def test_a_process_that_always_dies_is_an_error(folder, small_output):
    (folder / "parent").write_text("0")
    with pytest.raises(WorkerError, match="a worker ended with status 9, twice"):
        drpai_qat.evaluate(small_output, data="their_functions:doomed", workers=2)


def test_errors_of_processes_come_back(small_output):
    with pytest.raises(OptionError, match="their_functions has no nothing"):
        drpai_qat.evaluate(small_output, data="their_functions:nothing", workers=2)
    with pytest.raises(OptionError, match="--workers: processes find functions by name"):
        drpai_qat.evaluate(small_output, data=list, workers=2)


class TestMetrics:
    def test_a_function_of_all(self, small_output):
        plain = drpai_qat.evaluate(small_output, data="data.npz")
        for workers in (1, 2):
            found = drpai_qat.evaluate(small_output, data="data.npz", metric="their_functions:hits", workers=workers)
            assert found.scores[0].figures == {"hits": pytest.approx(plain.accuracy())}
        assert found.agreement is None

    def test_a_class(self, small_output, capsys):
        arguments = [str(small_output), "--data", "data.npz", "--metric", "their_functions:Largest"]
        assert main(["evaluate", *arguments, "--against", "float.onnx"]) == 0
        printed = capsys.readouterr().out
        assert "largest" in printed
        assert printed.count("7.0000") == 2

    @pytest.mark.parametrize(
        ("name", "says"), [("failing", "KeyError: 'box'"), ("text", "returns good: a number"), ("none", "has no none")]
    )
    def test_what_fails_is_named(self, name, says, small_output):
        with pytest.raises(OptionError, match=f"--metric their_functions:{name}.*{says}"):
            drpai_qat.evaluate(small_output, data="data.npz", metric=f"their_functions:{name}")


class TestCommand:
    def test_table(self, small_output, capsys):
        assert main(["evaluate", str(small_output), "--data", "data.npz", "--against", "float.onnx", "-n", "12"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "data.npz: 12 examples"
        assert printed[-2].startswith("Float model accuracy: 0.")
        assert printed[-1].startswith("Quantized model accuracy: 0.")

    def test_json(self, small_output, capsys):
        assert main(["evaluate", str(small_output), "--data", "data.npz", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["schema_version"] == 1
        assert found["networks"][0]["top1"] <= 1
        assert found["agreement"] is None

    @pytest.mark.parametrize(
        ("arguments", "status", "says"),
        [
            ([], 2, "--data is missing"),
            (["--data", "nowhere"], 1, "no such file"),
            (["--data", "data.npz", "--against", "none.onnx"], 1, "--against none.onnx: no such file"),
            (["--data", "data.npz", "--against", "data.npz"], 1, "a .tflite or an .onnx file"),
            (["--data", "data.npz", "--output", "z"], 1, "--output z: the network's outputs are y"),
            (["--data", "data.npz", "--preprocess", "vgg"], 2, "--preprocess vgg: no such file"),
            (["--data", "data.npz", "--output", "y", "--metric", "m:f"], 2, "give one of them"),
            (["--data", "more_classes.npz"], 1, "the network has 4 classes, 0 and up"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, arguments, status, says, small_output, capsys):
        assert main(["evaluate", str(small_output), *arguments]) == status
        error = capsys.readouterr().err
        assert says in error
        assert "Traceback" not in error


def test_tflite_with_integer_edges_beside_its_onnx_file(models):
    """Inputs are rounded to the file's own grid."""
    samples = np.load(models / "tf_cnn_op13.npz")
    pairs = list(zip(samples["x"], samples["label"], strict=True))
    found = drpai_qat.evaluate(models / "tf_cnn_op13.tflite", data=lambda: pairs, against=models / "tf_cnn_op13.onnx")
    assert [(one.kind, one.runs_in.split(",")[0]) for one in found.scores] == [
        ("quantized", "LiteRT"), ("float", "onnxruntime"),
    ]  # fmt: skip
    expected = samples["y"].argmax(1)
    assert found.scores[1].correct == (expected == samples["label"]).sum()
    assert len(found.changed) <= 1


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + struct.pack(">3I", 6, 28, 28) + images.tobytes())
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + struct.pack(">I", 6) + bytes(6))
    return folder


class TestPixels:
    """Digits through the preprocessing that the network's input was trained on, or that is recorded."""

    def test_guessed_from_the_inputs_grid(self, mnist, models, small_output):
        found = drpai_qat.evaluate(models / "tf_cnn_op13.onnx", data=f"mnist:{mnist}")
        assert found.scores[0].preprocessing.startswith("pixels / 255, as the input was trained on 0 to 1")
        found = drpai_qat.evaluate(small_output, data=f"mnist:{mnist}")  # symmetric, and as far as normalized digits
        assert found.scores[0].preprocessing.startswith("pixels / 255, less MNIST's mean 0.1307, over its deviation")
        assert found.warnings == ()

    def test_not_known(self, mnist, small_output):
        data, network = open_data(f"mnist:{mnist}"), open_network(small_output, "OUT")
        for reach, says in (
            (None, "nothing records how pixels"),
            ((-7.0, 9.0), "the input was trained on -7 to 9, and "),
        ):
            feeding = Feeding(replace(network, reach=reach), data, None)
            assert feeding.guessed.startswith(says)
            assert feeding.told.startswith("assumed, pixels / 255: stretch")
        assert Feeding(replace(network, reach=(-1.0, 1.0)), data, "tf").guessed == ""
        assert Feeding(network, data, "tf").guessed.startswith(
            "the preprocessing gives -1 to 1, and the network's input"
        )

    def test_recorded(self, mnist, small_output, tmp_path):
        copy = tmp_path / "out"
        shutil.copytree(small_output, copy)
        deployed = json.loads((copy / "deploy.json").read_text())
        deployed["preprocessing"] = {"input": "x", "channels": 3, "resize": "crop", "mean": [0.5], "std": [0.2]}
        (copy / "deploy.json").write_text(json.dumps(deployed))
        found = drpai_qat.evaluate(copy, data=f"mnist:{mnist}", against="float.onnx")
        assert found.scores[0].preprocessing.startswith("as deploy.json records: crop, bilinear, rgb, mean 0.5")
        assert found.agreement is not None
        assert found.agreement > 0.8
