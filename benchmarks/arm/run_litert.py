"""Runs a .tflite file with LiteRT as often as asked, in one thread; for counts.py, on Arm64 under qemu.

usage: python run_litert.py FILE.tflite LOOPS
"""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

network = Interpreter(sys.argv[1], num_threads=1)
network.allocate_tensors()
for info in network.get_input_details():
    network.set_tensor(info["index"], np.zeros(info["shape"], info["dtype"]))
for _ in range(int(sys.argv[2])):
    network.invoke()
print(Path("/proc/self/maps").read_text())
