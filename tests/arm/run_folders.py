"""Runs deployed folders on this machine's CPU and compares with the sample run made when they were compiled.

usage: python run_folders.py OUT...      prints one JSON object a folder: name, differing values, largest difference

Runs on Arm64 Python under qemu, where there is neither a compiler nor ONNX.
"""

import json
import sys
from pathlib import Path

import numpy as np

from drpai_qat.runtimes import network as runtime


def compare(folder: Path) -> dict[str, object]:
    """Bitwise comparison with the reference outputs in interpreter_out/."""
    network = runtime.load(folder)
    samples = folder / "interpreter_out"
    feeds = {
        info.name: np.fromfile(samples / f"input_{i}.bin", "<f4").reshape(info.shape).astype(info.dtype)
        for i, info in enumerate(network.inputs)
    }
    outputs = network.run(feeds)
    differing, largest, steps = 0, 0.0, 0.0
    for i, info in enumerate(network.outputs):
        got = outputs[info.name].astype(np.float32).reshape(-1)
        want = np.fromfile(samples / f"ref_result_{i}_fp32.bin", "<f4")
        differing += int((got.view(np.uint32) != want.view(np.uint32)).sum())
        error = float(np.abs(got.astype(np.float64) - want).max(initial=0))
        largest = max(largest, error)
        scale = info.quantization.scale if info.quantization is not None else None
        steps = max(steps, error / float(np.max(scale))) if scale is not None else steps
    return {"folder": folder.name, "differing": differing, "largest": largest, "lsb": steps}


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(compare(Path(argument))), flush=True)
