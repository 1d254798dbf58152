from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.data import image_stream
from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.frames import RandomFrames, chosen_preprocessing, open_frames
from drpai_qat.data.image_files import Pixels, load_pixels
from drpai_qat.data.samples import make_samples
from tests.small_models import qdq_model

X = TensorInfo("x", (1, 3, 8, 8), "float32")
Y = TensorInfo("ids", (1, 5), "int32")
GENERATORS = """
import numpy as np
calls = []
def lite():
    calls.append(1)
    for i in range(5):
        yield [np.full((1, 8, 8, 3), i, np.float32)]
def named():
    for i in range(3):
        yield {"ids": np.arange(5), "serving_default_x:0": np.full((3, 8, 8), i, np.float64)}
def labelled():
    yield np.zeros((1, 3, 8, 8)), 3
def failing():
    yield [np.zeros((1, 3, 8, 8), np.float32)]
    raise ValueError("no more disks")
def needing(folder):
    yield
def nothing():
    return iter(())
batch = [np.full((4, 3, 8, 8), 1, np.float32)]
once = iter(batch)
pixels = [np.zeros((8, 8, 3), np.uint8)]
holes = [np.full((3, 8, 8), np.nan, np.float32)]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in two classes, and what should not be there."""
    for index in range(12):
        place = tmp_path / "photos" / ("cat" if index < 6 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (index, 0, 0)).save(place / f"{index:02}.png")
    (tmp_path / "photos/cat/notes.txt").write_text("cats")
    Image.effect_noise((64, 64), 50).save(tmp_path / "photos/dog/06.png")
    (tmp_path / "photos/dog/06.png").write_bytes((tmp_path / "photos/dog/06.png").read_bytes()[:500])
    (tmp_path / "photos/.hidden").write_text("")
    return tmp_path / "photos"


def read(options: FrameOptions, *inputs: TensorInfo) -> list[dict[str, np.ndarray]]:
    frames = open_frames(options, inputs or (X,))
    assert frames is not None
    found = list(frames)
    again = list(frames)
    assert len(again) == len(found)
    assert frames.count is None or len(found) <= frames.count
    for one in found:
        assert {name: (value.shape, value.dtype.name) for name, value in one.items()} == {
            info.name: (info.shape, info.dtype) for info in inputs or (X,)
        }
    return found


class TestImages:
    def test_what_is_no_image_is_skipped_by_name(self, folder: Path):
        frames = open_frames(FrameOptions(images=folder, preprocess="none"), [X])
        assert frames is not None
        assert sorted(int(one["x"][0, 0, 0, 0]) for one in frames) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
        (note,) = frames.notes()
        assert note.startswith("2 files skipped: cat/notes.txt (no image), dog/06.png (damaged: ")

    def test_the_first_are_decoded_once(self, folder: Path, monkeypatch):
        """In several threads, in the order of the files; as many as there is room for are kept for the next pass."""
        decoded = []
        filters = list(warnings.filters)

        def load(path: Path) -> Pixels:
            decoded.append(path.name)
            return load_pixels(path)

        monkeypatch.setattr(image_stream, "load_pixels", load)
        monkeypatch.setattr(image_stream, "_KEPT", 5 * 3 * 8 * 8 * 4)
        frames = open_frames(FrameOptions(images=folder, preprocess="none"), [X])
        assert frames is not None
        first = [one["x"] for one in frames]
        notes = frames.notes()
        assert len(decoded) == len(set(decoded)) == 13
        decoded.clear()
        second = [one["x"] for one in frames]
        assert np.array_equal(first, second)
        assert frames.notes() == notes
        assert len(decoded) == 13 - 5 - 2  # neither are damaged files opened again
        assert list(warnings.filters) == filters

    def test_fewer_are_spread_over_all_classes_and_damaged_ones_made_up_for(self, folder: Path):
        found = read(FrameOptions(images=folder, preprocess="none", num_frame=4))
        reds = [int(one["x"][0, 0, 0, 0]) for one in found]
        assert len(reds) == 4
        assert min(reds) < 6 < max(reds)

    def test_batches(self, folder: Path):
        assert len(read(FrameOptions(images=folder), TensorInfo("x", (4, 8, 8, 3), "float32"))) == 2

    def test_none_left(self, folder: Path):
        for path in folder.rglob("*.png"):
            path.unlink()
        frames = open_frames(FrameOptions(images=folder), [X])
        assert frames is not None
        with pytest.raises(
            OptionError, match=r"--images .*: 1 file skipped: cat/notes.txt \(no image\): nothing to go"
        ):
            list(frames)

    def test_missing_or_empty(self, tmp_path: Path):
        for place, says in (("none", "no such folder"), (".", "no file in it")):
            with pytest.raises(OptionError, match=says):
                open_frames(FrameOptions(images=tmp_path / place), [X])

    def test_preprocessing_is_told(self, folder: Path):
        given = chosen_preprocessing(FrameOptions(images=folder), [X])
        assert given is not None
        assert given.to_json()["mean"] == [0.485, 0.456, 0.406]
        assert (given.to_json()["input"], given.to_json()["size"], given.to_json()["layout"]) == ("x", [8, 8], "nchw")
        assert chosen_preprocessing(FrameOptions(), [X]) is None


class TestFunctions:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch):
        (tmp_path / "their_data.py").write_text(GENERATORS)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))

    def test_a_generator_written_for_tflite(self):
        found = read(FrameOptions(calibration="their_data:lite"))
        assert [int(one["x"].max()) for one in found] == [0, 1, 2, 3, 4]
        assert len(read(FrameOptions(calibration="their_data.py:lite", num_frame=2))) == 2
        assert len(read(FrameOptions(calibration="their_data:lite"), TensorInfo("a", (2, 8, 8, 3), "float32"))) == 2

    def test_names_and_types_of_others(self):
        found = read(FrameOptions(calibration="their_data:named"), X, Y)
        assert found[2]["ids"].tolist() == [[0, 1, 2, 3, 4]]

    def test_a_batch_is_taken_apart(self):
        assert len(read(FrameOptions(calibration="their_data:batch"))) == 4

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("labelled", "sample 0 is a tuple of 2: the network has 1 inputs"),
            ("failing", r"ValueError: no more disks \(their_data.py, line 15\)"),
            ("needing", "TypeError: .*folder"),
            ("nothing", "no sample in it"),
            ("once", "can be read once only"),
            ("pixels", "input 'x' is uint8, not float32"),
            ("holes", "NaN"),
            ("missing", "their_data has no missing"),
        ],
    )
    def test_what_does_not_fit(self, name, says):
        with pytest.raises(OptionError, match=f"--calibration their_data:{name}.*{says}"):
            list(open_frames(FrameOptions(calibration=f"their_data:{name}"), [X]) or ())

    def test_in_python(self):
        assert len(read(FrameOptions(calibration=lambda: iter([np.zeros((3, 8, 8), np.float32)] * 3)))) == 3

    def test_no_such_module(self):
        with pytest.raises(OptionError, match="importing no_such fails: ModuleNotFoundError"):
            open_frames(FrameOptions(calibration="no_such:f"), [X])


class TestFiles:
    def test_archives_and_folders(self, tmp_path: Path):
        x, ids = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32), np.ones((6, 5), np.int64)
        np.savez(tmp_path / "a.npz", x=x, ids=ids)
        np.savez_compressed(tmp_path / "c.npz", x=np.asfortranarray(x), ids=ids)
        (tmp_path / "d").mkdir()
        np.save(tmp_path / "d/x.npy", x)
        np.save(tmp_path / "d/ids.npy", ids)
        for name in ("a.npz", "c.npz", "d"):
            found = read(FrameOptions(calibration=tmp_path / name), X, Y)
            np.testing.assert_array_equal(np.concatenate([one["x"] for one in found]), x)
        assert len(read(FrameOptions(calibration=tmp_path / "d/x.npy", num_frame=5))) == 5
        assert len(read(FrameOptions(calibration=tmp_path / "d/x.npy"), TensorInfo("x", (4, 3, 8, 8), "float32"))) == 1

    def test_a_file_for_each_sample(self, tmp_path: Path):
        for index in range(3):
            np.save(tmp_path / f"{index}.npy", np.full((3, 8, 8), index, np.float32))
        assert [one["x"].max() for one in read(FrameOptions(calibration=tmp_path))] == [0, 1, 2]

    def test_memory_does_not_grow(self, tmp_path: Path):
        np.savez_compressed(tmp_path / "large.npz", x=np.zeros((4000, 3, 64, 64), np.float32))  # 200 MB
        frames = open_frames(
            FrameOptions(calibration=tmp_path / "large.npz"), [TensorInfo("x", (1, 3, 64, 64), "float32")]
        )
        assert frames is not None
        tracemalloc.start()
        assert sum(1 for _ in frames) == frames.count == 4000
        assert tracemalloc.get_traced_memory()[1] < 10e6
        tracemalloc.stop()

    def test_what_does_not_fit(self, tmp_path: Path):
        np.savez(tmp_path / "a.npz", z=np.zeros((2, 3, 8, 8)), ids=np.zeros((3, 5)))
        np.savez(tmp_path / "b.npz", x=np.zeros((2, 3, 8, 8)), ids=np.zeros((3, 5)))
        (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
        np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
        (tmp_path / "empty").mkdir()
        for name, says in (
            ("a.npz", "has ids, z: the network's inputs are ids, x"), ("b.npz", "2 for 'x', 3 for 'ids'"),
            ("cut.npz", "no .npz file, or truncated"), ("none.npz", "no such file"), ("empty", "no .npy file in it"),
            ("o.npy", "no .npz"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=f"--calibration .*{name}.*{says}"):
                list(open_frames(FrameOptions(calibration=tmp_path / name), [X, Y]) or ())
        with pytest.raises(OptionError, match="Python objects"):
            open_frames(FrameOptions(calibration=tmp_path / "o.npy"), [X])
        for header, says in (
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}", "shape"),
            ("{", "can't be"),
        ):
            (tmp_path / "o.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
            with pytest.raises(OptionError, match=says):
                open_frames(FrameOptions(calibration=tmp_path / "o.npy"), [X])


def test_random_frames_are_those_of_the_samples():
    model = qdq_model()
    frames = list(RandomFrames(model, 3, seed=5))
    for one, other in zip(frames, make_samples(model, 3, 5), strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])
