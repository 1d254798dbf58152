"""Instructions per inference on Arm64, by kernel and kind: counted under qemu, exact, the same on any machine.

    python benchmarks/arm/counts.py OUT [OUT ...]          a row a kernel; OUT as drpai-qat compiled it for Arm
    python benchmarks/arm/counts.py --program FILE ARGUMENT...   any Arm64 Python program: FILE ARGUMENT... LOOPS

A program runs its network LOOPS times in one thread and prints /proc/self/maps at the end. It is run with two loop
counts and the difference counted, so start-up is not in it. The last column estimates cycles of a Cortex-A55 core
(cortex_a55.py), without cache misses.

Needs qemu-aarch64 with plugins (apt-get install qemu-user, QEMU 4.2 to 8.2), gcc, gcc-aarch64-linux-gnu, and the Arm64
Python that tests/arm/setup_arm64.sh sets up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from blocks import Counts, read, subtract
from cortex_a55 import cycles_of

ROOT = Path(__file__).parents[2]
CORE = "cortex-a76"  # the instruction set of a Cortex-A55: Armv8.2 with dot product, without int8 matrix products
CLOCK = 1.7e9  # Hz, of RZ/V2H's and RZ/V2N's Cortex-A55
LOOPS = (1, 3)
KINDS = ("dot", "multiply", "vector", "load", "store", "scalar")


def count(arm64: Path, site: Sequence[str], program: Sequence[str]) -> tuple[Counts, int]:
    """Blocks that one inference executes, and how many of it: those of the longer run less those of the shorter."""
    plugin = arm64 / "count_blocks.so"
    source = Path(__file__).with_name("count_blocks.c")
    if not plugin.exists() or plugin.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(source), "-o", str(plugin)], check=True)
    root = arm64 / "root"
    environment = {
        **os.environ,
        "QEMU_LD_PREFIX": str(root),
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": os.pathsep.join([*site, str(arm64 / "site"), str(ROOT)]),
        "TVM_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    runs = []
    for loops in LOOPS:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch, "blocks")
            command = ["qemu-aarch64", "-cpu", CORE, "-plugin", f"{plugin},out={out}"]
            command += [str(root / "usr/bin/python3.11"), *program, str(loops)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"error: {' '.join(program)} fails on Arm64: {done.stderr.strip()[-400:]}")
            runs.append(read(out.read_bytes(), done.stdout))
    return subtract(runs[1], runs[0]), LOOPS[1] - LOOPS[0]


def report(counts: Counts, inferences: int, everything: bool) -> None:
    """Print a row a function, the most expensive first."""
    functions = counts.by_function()
    cycles: Counter[str] = Counter()
    for block, estimate in zip(counts.blocks, cycles_of([block.code for block in counts.blocks]), strict=True):
        cycles[counts.function(block)] += estimate * block.count / inferences
    total = {kind: sum(kinds[kind] for kinds in functions.values()) / inferences for kind in KINDS}
    print(
        f"{'million instructions':28}{'all':>9}"
        + "".join(f"{kind:>10}" for kind in KINDS)
        + f"{'dot %':>8}{'Mcycles':>10}"
    )
    rows = sorted(functions.items(), key=lambda row: -sum(row[1].values()))
    shown = rows if everything else rows[:24]
    for name, kinds in [("all", Counter({k: v * inferences for k, v in total.items()})), *shown]:
        row = {kind: kinds[kind] / inferences / 1e6 for kind in KINDS}
        whole = sum(row.values())
        spent = sum(cycles.values()) if name == "all" else cycles[name]
        numbers = "".join(f"{row[kind]:10.2f}" for kind in KINDS)
        print(f"{name[:28]:28}{whole:9.2f}{numbers}{100 * row['dot'] / max(whole, 1e-9):8.1f}{spent / 1e6:10.2f}")
    one = sum(cycles.values()) / CLOCK * 1e3
    print(f"estimate for Cortex-A55 at {CLOCK / 1e9} GHz: {one:.0f} ms on one core, {one / 4:.0f} on four")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="+", help="folder compiled for Arm, or with --program its arguments")
    parser.add_argument("--program", help="Arm64 Python program to count instead")
    parser.add_argument("--arm64", type=Path, default=ROOT / "build" / "arm64", help="what setup_arm64.sh set up")
    parser.add_argument("--site", action="append", default=[], help="further folder of Arm64 Python packages")
    parser.add_argument("--all", action="store_true", help="all functions, not the 24 most expensive")
    options = parser.parse_args()
    for program in ("qemu-aarch64", "gcc", "aarch64-linux-gnu-objdump", "aarch64-linux-gnu-nm"):
        if shutil.which(program) is None:
            sys.exit(f"error: {program} is missing: apt-get install qemu-user gcc gcc-aarch64-linux-gnu")
    arm64 = options.arm64.resolve()
    runner = str(Path(__file__).with_name("run_network.py"))
    programs = [[options.program, *options.out]] if options.program else [[runner, out] for out in options.out]
    for program in programs:
        print(*program)
        report(*count(arm64, options.site, program), options.all)


if __name__ == "__main__":
    main()
