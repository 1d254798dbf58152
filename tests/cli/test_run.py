from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import drpai_qat
from drpai_qat.cli.main import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recorded(small_output: Path, here: Path) -> Path:
    """A network that records how images become its input."""
    shutil.copytree(small_output, here / "out")
    content = json.loads((here / "out/deploy.json").read_text())
    content["preprocessing"] = {"input": "x", "channels": 3, "resize": "stretch", "scale": 1 / 127.5, "mean": [1.0]}
    (here / "out/deploy.json").write_text(json.dumps(content))
    return here / "out"


def answers(folder: Path, x: np.ndarray) -> np.ndarray:
    return drpai_qat.load(folder).run({"x": x})["y"]


def test_the_sample_input(small_output, here, capsys):
    arguments = ["run", str(small_output), "-n", "3", "--warm-up", "0", "-o", "there"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "100.00% identical" in printed
    assert "latency: min" in printed
    assert "p99" in printed
    assert "(3 runs)" in printed
    assert [path.name for path in (here / "there").iterdir()] == ["output_0.bin"]
    assert main([*arguments[:-1], "there.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["same"], found["latency"]["runs"]) == (1, True, 3)
    raw = np.fromfile(here / "there/output_0.bin", "<f4")
    np.testing.assert_array_equal(np.load("there.npz")["y"].reshape(-1), raw)


def test_arrays(small_output, here, capsys):
    x = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.savez("a.npz", x=x[:2])
    np.save("b.npy", x[2])
    x[2].tofile("c.bin")
    assert main(["run", str(small_output), "-i", "a.npz", "-i", "b.npy", "-i", "c.bin", "-o", "y", "-n", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert names == ["a.npz 0", "a.npz 1", "b.npy", "c.bin", "latency"]
    assert lines[0].startswith("a.npz 0: y [1, 4]: largest ")
    written = [np.fromfile(here / f"y/output_0_{k}.bin", "<f4") for k in range(4)]
    np.testing.assert_array_equal(written[:3], answers(small_output, x))
    np.testing.assert_array_equal(written[3], written[2])


def test_an_image_as_recorded(recorded, here, capsys, monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "1")  # --threads sets it for the process, which is this one
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    (here / "names.txt").write_text("cat\ndog\nemu\nape\n")
    assert main(["run", str(recorded), "-i", "photo.png", "--labels", "names.txt", "-o", "y.npz"]) == 0
    x = (pixels / 127.5 - 1).astype(np.float32).transpose(2, 0, 1)[None]
    want = answers(recorded, x)
    np.testing.assert_array_equal(np.load("y.npz")["y"], want)
    assert f"largest {['cat', 'dog', 'emu', 'ape'][int(want.argmax())]} (" in capsys.readouterr().out
    assert main(["run", str(recorded), "-i", "photo.png", "--preprocess", "none", "-o", "z.npz", "--threads", "1"]) == 0
    np.testing.assert_array_equal(
        np.load("z.npz")["y"], answers(recorded, pixels.transpose(2, 0, 1)[None] * np.float32(1))
    )


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["-i", "none.npy"], 1, "-i none.npy: no such file"),
        (["-i", "words.txt"], 1, "-i words.txt: no image: give an image, a .npz, .npy or .bin file"),
        (["-i", "photo.png"], 1, "nothing records how an image becomes the network's input: give --preprocess"),
        (["-i", "photo.png", "--preprocess", "vgg"], 2, "--preprocess vgg: no such file"),
        (["-i", "short.bin"], 1, "holds 5 float32 values: the network takes [1, 3, 8, 8]"),
        (["-i", "short.npy"], 1, "input 'x' has shape [5]: the network takes [1, 3, 8, 8]"),
        (["--labels", "words.txt"], 2, "are for -i"),
        (["--threads", "2", "--rpc", "h:1"], 2, "--threads is for this machine"),
        (["-o", "OUT"], 2, "-o is the network's own folder"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, status, says, small_output, here, capsys):
    (here / "words.txt").write_text("words")
    Image.new("RGB", (8, 8)).save("photo.png")
    np.zeros(5, np.float32).tofile("short.bin")
    np.save("short.npy", np.zeros(5, np.float32))
    named = [str(small_output) if word == "OUT" else word for word in arguments]
    assert main(["run", str(small_output), *named]) == status
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
