"""Runs a deployed folder as often as asked, then prints where its libraries lie; for counts.py, on Arm64 under qemu.

usage: python run_network.py OUT LOOPS
"""

import sys
from pathlib import Path

import numpy as np

from drpai_qat.runtimes import network as runtime

network = runtime.load(Path(sys.argv[1]))
feeds = {info.name: np.zeros(info.shape, info.dtype) for info in network.inputs}
for _ in range(int(sys.argv[2])):
    network.run(feeds)
print(Path("/proc/self/maps").read_text())
