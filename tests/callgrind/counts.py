"""Instructions that a compiled network executes a frame, counted by callgrind: exact, whatever else the machine does.

    python -m tests.callgrind.counts         writes baseline.json anew

Networks of one layer each, for targets that valgrind knows (nothing beyond AVX2). Counted is what deploy.so executes
itself, from two runs of the C++ runner of different length, so that starting up and running once drop out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from drpai_qat.backends.cpu.bundle import RUNNER, bundle
from tests.lowering.running import grid, model, qdq

BASELINE = Path(__file__).with_name("baseline.json")
TARGETS = ("x86-64-v2", "avx2")
LOOPS = 4
TOOLS = ("valgrind", "g++")


def _layer(channels: int, out: int, kernel: int, size: int, groups: int = 1, bits: int = 7) -> onnx.ModelProto:
    """Convolution, ReLU, requantize; activations of so many bits, as they are behind a ReLU.

    (How often a guarded product takes the slower way depends on them. What reaches a range through views alone is made
    to fill it; hence Neg.)
    """
    step = 4 / (2**bits - 1)
    rng = np.random.default_rng(0)
    weights = np.clip(rng.normal(0, 32, (out, channels // groups, kernel, kernel)), -127, 127).astype(np.int8)
    body = (
        "n = Neg(x) l = Clip(n, lo, hi)\n" + qdq("l", "a") + "v = DequantizeLinear(w, sw, zw)\n"
        f"c = Conv<pads = [{', '.join([str(kernel // 2)] * 4)}], group = {groups}>(a, v)  r = Relu(c)\n" + qdq("r", "y")
    )
    return model(
        f"(float[1,{channels},{size},{size}] x) => (float[1,{out},{size},{size}] y)", body,
        **grid("a", step, 0), **grid("y", 5 * step, 0),
        lo=0.0, hi=4.0, w=weights, sw=np.float32(0.01), zw=np.int8(0),
    )  # fmt: skip


def _other(body: str, out: str) -> onnx.ModelProto:
    grids = grid("a", 0.02, 128) | grid("b", 0.03, 100) | grid("y", 1 / 128, 0)
    return model(f"(float[1,64,14,14] x) => (float[{out}] y)", qdq("x", "a") + body + qdq("r", "y"), **grids)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "conv 3x3, 64 to 64 at 14x14, 7 bits": lambda: _layer(64, 64, 3, 14),
    "conv 3x3, 64 to 64 at 14x14, 8 bits": lambda: _layer(64, 64, 3, 14, bits=8),
    "conv 1x1, 128 to 64 at 14x14, 7 bits": lambda: _layer(128, 64, 1, 14),
    "conv 1x1, 128 to 64 at 14x14, 8 bits": lambda: _layer(128, 64, 1, 14, bits=8),
    "conv 3x3, 3 to 32 at 28x28": lambda: _layer(3, 32, 3, 28),
    "depthwise 3x3, 96 at 14x14": lambda: _layer(96, 96, 3, 14, groups=96),
    "sum of two grids": lambda: _other(qdq("a", "b") + "r = Add(a, b)\n", "1,64,14,14"),
    "SiLU": lambda: _other("s = Sigmoid(a) r = Mul(a, s)\n", "1,64,14,14"),
    "max pool 3x3": lambda: _other("r = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(a)\n", "1,64,6,6"),
    "softmax": lambda: _other("r = Softmax<axis = 1>(a)\n", "1,64,14,14"),
}


def count(target: str, folder: Path) -> dict[str, int]:
    """Instructions a frame, by network."""
    import drpai_qat

    runner: Path | None = None
    counts = {}
    for index, (name, make) in enumerate(NETWORKS.items()):
        source, out = folder / f"{index}.onnx", folder / f"{target}_{index}"
        onnx.save(make(), source)
        drpai_qat.compile(source, qat_type="pytorch", output_dir=out, target=target, check="none")
        if runner is None:
            bundle(out, folder / f"{target}_bundle")
            runner = folder / f"{target}_bundle" / RUNNER
        few, many = (_instructions(runner, out, loops, folder / "callgrind.out") for loops in (1, 1 + LOOPS))
        counts[name] = (many - few) // LOOPS
    return counts


def _instructions(runner: Path, network: Path, loops: int, listing: Path) -> int:
    """Executed by deploy.so in 1 + `loops` frames."""
    command = [
        "valgrind", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={listing}",
        str(runner), str(network), "-n", str(loops), "-o", str(listing.parent),
    ]  # fmt: skip
    environment = {**os.environ, "TVM_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return own_cost(listing.read_text(), "deploy.so")


def own_cost(listing: str, library: str) -> int:
    """Instructions of a library's own functions in callgrind's output.

    Source: "Callgrind Format Specification" of valgrind's manual: an "ob=" line names the object of what follows; a
    line of numbers is "position cost"; the one after "calls=" is what the called function took.
    """
    total, inside, called = 0, False, False
    for line in listing.splitlines():
        if line.startswith("ob="):
            inside = line.endswith("/" + library)
        elif line.startswith("calls="):
            called = True
        elif re.match(r"[0-9+*-]", line):
            if inside and not called:
                total += int(line.split()[1])
            called = False
    return total


def main() -> None:
    """Write the baseline."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        sys.exit(f"apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        counts = {target: count(target, Path(folder)) for target in TARGETS}
    BASELINE.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
