"""The TensorFlow sample, run as a user runs it: its commands in an empty folder, small settings."""

from __future__ import annotations

import gzip
import importlib.util
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "TensorFlow_sample"
NEEDED = ("tensorflow", "tf_keras", "tensorflow_model_optimization", "tf2onnx")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extra tensorflow"
    ),
]


@pytest.fixture(autouse=True)
def sample_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SAMPLE))


def run(script: str, *arguments: str, folder: Path, status: int = 0) -> str:
    """Run a script of the sample; returns what it printed."""
    command = [sys.executable, str(SAMPLE / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def accuracies(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(float|QAT|INT8|PTQ) +│ +([\d.]+)%", printed)}


def test_small_cnn_trains_retrains_and_compiles(tmp_path):
    run("train.py", "--model", "small_cnn", "-lr", "0.001", "--max_epochs", "8", folder=tmp_path)
    options = ("--model", "small_cnn", "-lr", "0.0001", "--max_epochs", "1", "--ptq")
    printed = run("qat_retrain.py", *options, folder=tmp_path)

    assert "integer MACs  100.0%" in printed
    top1 = accuracies(printed)
    assert top1["QAT"] >= 96.0
    assert abs(top1["INT8"] - top1["QAT"]) <= 0.3
    assert abs(top1["PTQ"] - top1["float"]) <= 0.5
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "pretrained_small_cnn.h5",
        "pretrained_small_cnn.onnx",
        "pretrained_small_cnn_calibration.npz",
        "pretrained_small_cnn_samples.npz",
        "PTQ_small_cnn_int8",
        "QAT_small_cnn_fp32.h5",
        "QAT_small_cnn_fp32.onnx",
        "QAT_small_cnn_samples.npz",
        "QAT_small_cnn_int8",
    }


def test_the_road_to_tflite(tmp_path):
    pytest.importorskip("ai_edge_litert")
    run("train.py", "--model", "small_cnn", "--max_epochs", "2", folder=tmp_path)
    printed = run("tflite_road.py", folder=tmp_path)

    rows = re.findall(r"│ (QAT|TFLite \w+|TensorFlow's converter) +│ ([\d.]+)% │ +(\d*) +│ +([\d.]+)%", printed)
    agreement = {name: float(share) for name, _, _, share in rows}
    assert agreement.keys() == {"QAT", "TFLite INT8", "TFLite FP16", "TFLite FP32", "TensorFlow's converter"}
    assert min(agreement.values()) >= 99.0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_larger_networks_quantize_and_export(name, tmp_path, monkeypatch):
    """Every convolution must get a grid from tfmot, and keep it."""
    import networks
    from framework import keras, tf
    from ranges import quantize

    from drpai_qat import export

    images = tf.random.stateless_normal((4, 32, 32, 3), (0, 0))
    network = networks.build(name, 10, (32, 32, 3))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one pass gives it statistics that keep the signal alive
    network(images, training=True)
    qat = quantize(network, [images])
    # Untrained networks amplify rounding ties: 1e-6 more variance in the batch norms is 14 dB in TensorFlow itself.
    monkeypatch.setattr("drpai_qat.export.comparison._LEAST_SQNR_DB", -np.inf)
    exported = export.tensorflow(qat, tmp_path / "net.onnx", example_inputs=images[:1])

    assert "stay float32" not in str(exported)
    graph = onnx.load(exported.path).graph
    constants = {one.name for one in graph.initializer}
    assert not [node.name for node in graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in constants]


def test_ranges_settle_on_what_the_network_computes():
    import networks
    from framework import keras, tf
    from ranges import quantize, settle_ranges

    keras.utils.set_random_seed(0)
    images = tf.random.stateless_normal((16, 28, 28, 1), (0, 1))
    qat = quantize(networks.build("mnist_mlp", 10, (28, 28, 1)), [images])
    values = {one.name: one.numpy() for one in qat.non_trainable_variables}
    first = next(name for name in values if "quant_dense/post_activation_max" in name)
    hidden = keras.Model(qat.input, qat.get_layer("quant_dense").output)
    assert values[first] == pytest.approx(float(tf.reduce_max(hidden(images))), rel=0.01)  # not tfmot's 6

    settle_ranges(qat, [images, 3.0 * images])  # the mean of both, not 0.1% of the way to the last
    values = {one.name: one.numpy() for one in qat.non_trainable_variables}
    assert values[first] == pytest.approx(2.0 * float(tf.reduce_max(hidden(images))), rel=0.1)


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    from datasets import open_data
    from framework import keras
    from networks import build
    from training import Schedule, fit

    def interrupt(epoch):
        if epoch == 1:
            raise KeyboardInterrupt

    data = open_data("mnist5k", gray=True)
    schedule = Schedule(0.001, 0.7, max_epochs=2, batch_size=64, patience=9, target=1.0)
    state = tmp_path / "state"
    keras.utils.set_random_seed(0)
    model = build("mnist_mlp", 10, data.shape)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, schedule, state, resume=False, on_epoch=interrupt)
    assert state.exists()

    resumed, epochs, started = build("mnist_mlp", 10, data.shape), [], []

    def remember(epoch):
        epochs.append(epoch)
        started.extend(resumed.get_weights())

    fit(resumed, data, schedule, state, resume=True, on_epoch=remember)

    assert epochs == [1]
    assert all(np.array_equal(one, other) for one, other in zip(started, model.get_weights(), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_says_what_to_do(tmp_path):
    assert "run train.py --model small_cnn first" in run(
        "qat_retrain.py", "--model", "small_cnn", folder=tmp_path, status=2
    )
    assert "give one of mnist5k, mnist:DIR" in run("train.py", "--data", "imagenet", folder=tmp_path, status=2)
    assert "no such file" in run("train.py", "--weights", "missing.h5", folder=tmp_path, status=2)
    assert "TensorFlow sees 0 GPUs" in run("train.py", "--device", "tpu", folder=tmp_path, status=2)
    assert list(tmp_path.iterdir()) == []


def test_wrong_data_says_what_is_missing(tmp_path):
    import click
    from datasets import open_data

    for spec, message in {
        "imagefolder:x": "no folder x/train",
        "cifar10:": "give one of",
        "food101": "give one of",
    }.items():
        with pytest.raises(click.UsageError, match=message):
            open_data(spec, gray=False)
    with pytest.raises(click.UsageError, match="reads digits only"):
        open_data("cifar10:x", gray=True)


def test_weights_load_by_name_and_other_networks_are_refused(tmp_path):
    import click
    from networks import build
    from weights import load_weights, open_model, save

    model = build("small_cnn", 10, (32, 32, 3))
    save(model, tmp_path / "ten.h5", data="mnist5k", accuracy=0.5)
    assert open_model(tmp_path / "ten.h5")[1] == "mnist5k"

    for classes in (10, 7):  # the last layer stays as it is where the number of classes differs
        other = build("small_cnn", classes, (32, 32, 3))
        load_weights(other, "small_cnn", str(tmp_path / "ten.h5"))
        equal = [np.array_equal(*pair) for pair in zip(other.get_weights(), model.get_weights(), strict=True)]
        assert equal == [True] * (len(equal) - 2) + [classes == 10] + [equal[-1]]
    with pytest.raises(click.UsageError, match=r"not weights of resnet18, conv2d_3 and others are missing"):
        load_weights(build("resnet18", 10, (32, 32, 3)), "resnet18", str(tmp_path / "ten.h5"))


def test_both_samples_see_the_same_digits():
    from datasets import batches, open_data

    sys.path.append(str(SAMPLE.parent))
    from common.digits import mnist5k

    data = open_data("mnist5k", gray=True)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [3500, 500, 1000]
    images, labels = next(iter(batches(data.test, 1000)))
    _, _, test = mnist5k(gray=True)
    np.testing.assert_array_equal(images, test.images)
    np.testing.assert_array_equal(labels, test.labels)
    moved = next(iter(batches(data.train, 8)))[0].numpy()
    assert moved.shape == (8, 28, 28, 1)
    assert not np.array_equal(moved, mnist5k(gray=True)[0].images[:8])
    still = mnist5k(gray=True)[0].images[:8]
    assert np.abs(moved.mean((1, 2, 3)) - still.mean((1, 2, 3))).max() < 0.15  # digits, only a little moved


def write_mnist(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 20), ("t10k", 5)):
        images = np.full((count, 28, 28), 255, np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def write_cifar10(folder: Path) -> None:
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        data = np.zeros((4, 3, 1024), np.uint8)
        data[:, 0] = 255  # red, plane after plane
        (root / name).write_bytes(pickle.dumps({"data": data.reshape(4, 3072), "labels": [0, 1, 2, 3]}))


def write_photo(path: Path, red: int) -> None:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    photo = np.zeros((90, 120, 3), np.uint8)
    photo[..., 0] = red
    tf.io.write_file(str(path), tf.io.encode_jpeg(photo))


def write_food101(folder: Path) -> None:
    root = folder / "food-101"
    (root / "meta").mkdir(parents=True)
    for name, lines in {"train": ["pie/1", "pie/2", "soup/3"], "test": ["soup/4"]}.items():
        (root / "meta" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            write_photo(root / "images" / f"{line}.jpg", 255)


def write_imagefolder(folder: Path) -> None:
    for name in ("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/3.JPG", "val/dog/4.jpg"):
        write_photo(folder / name, 255)


@pytest.mark.parametrize(
    ("kind", "write", "counts", "classes", "shape"),
    [
        ("mnist", write_mnist, (18, 2, 5), 10, (32, 32, 3)),
        ("cifar10", write_cifar10, (18, 2, 4), 10, (32, 32, 3)),
        ("food101", write_food101, (2, 1, 1), 101, (224, 224, 3)),
        ("imagefolder", write_imagefolder, (2, 1, 1), 2, (224, 224, 3)),
    ],
)
def test_folders_are_read_as_torchvision_reads_them(kind, write, counts, classes, shape, tmp_path):
    from datasets import batches, open_data

    write(tmp_path)
    data = open_data(f"{kind}:{tmp_path}", gray=False)

    assert tuple(len(part) for part in (data.train, data.validation, data.test)) == counts
    assert (data.classes, data.shape) == (classes, shape)
    for part in (data.train, data.validation, data.test):
        images, labels = next(iter(batches(part, 2)))
        assert images.shape[1:] == shape
        assert 0 <= int(labels.numpy().min()) <= int(labels.numpy().max()) < classes
    image = next(iter(batches(data.test, 1)))[0].numpy()[0]
    bright = (1.0 - 0.1307) / 0.3081 if kind == "mnist" else (1.0 - 0.485) / 0.229
    assert image[..., 0].max() == pytest.approx(bright, abs=0.02)
