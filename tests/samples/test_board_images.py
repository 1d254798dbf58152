"""The board's Python runner on a photo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import drpai_qat
from drpai_qat.data.image_files import load_pixels
from drpai_qat.data.image_input import image_input
from drpai_qat.data.preprocessing import PRESETS

RUNNER = Path(__file__).parents[2] / "samples/board/run_inference.py"


def test_a_photo_is_prepared_as_recorded(small_output, tmp_path):
    folder, photo = tmp_path / "board", tmp_path / "photo.jpg"
    shutil.copytree(small_output, folder)
    Image.effect_noise((61, 40), 80).convert("RGB").save(photo)
    network = drpai_qat.load(folder)
    taken = image_input(network.inputs, PRESETS["yolo"], "here")
    content = json.loads((folder / "deploy.json").read_text())
    (folder / "deploy.json").write_text(json.dumps({**content, "preprocessing": taken.to_json()}))
    before = sorted(path.name for path in folder.iterdir())
    for arguments, says in (
        ([], "100.00% identical"),
        (["-i", photo, "-o", tmp_path / "y"], "photo.jpg: y [1, 4]: largest "),
    ):
        done = subprocess.run(
            [sys.executable, RUNNER, folder, "-n", "2", "--threads", "1", *arguments], capture_output=True, text=True,
            check=True, env=os.environ | {"PYTHONPATH": str(RUNNER.parents[2])},
        )  # fmt: skip
        assert says in done.stdout
        assert "inferences/s" in done.stdout
    want = network.run({"x": taken.array(load_pixels(photo))[None]})["y"]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y/output_0.bin", "<f4").reshape(want.shape), want)
    assert sorted(path.name for path in folder.iterdir()) == before
