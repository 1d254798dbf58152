"""Make the bundled model: the PyTorch sample's small CNN, trained and QAT fine-tuned on 5,000 real digits.

    pip install '.[pytorch]' && python samples/models/make_bundled.py      about two minutes on two cores

Writes small_cnn_qat.onnx beside this file. The recipe is the DRP-AI one: no fusion, 7-bit activations, convolution,
batch norm and ReLU each with a trained range, the network's input without one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "PyTorch_sample"
NETWORK = "small_cnn"


def main() -> None:
    """Run the sample's two steps in a temporary folder and keep the exported model."""
    with tempfile.TemporaryDirectory() as folder:
        for step in ("train.py -lr 0.001 --max_epochs 15", "qat_retrain.py -lr 0.0001 --max_epochs 3 --no-compile"):
            script, *arguments = step.split()
            command = [sys.executable, str(SAMPLE / script), "--model", NETWORK, *arguments]
            subprocess.run(command, cwd=folder, check=True)
        target = HERE / f"{NETWORK}_qat.onnx"
        shutil.copy(Path(folder) / f"QAT_{NETWORK}_fp32.onnx", target)
        print(f"{target.name}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
