"""python -m tests.attack --seeds N: compile N mutants; status 1 if one is a fault (--help lists the options).

`make attack SEEDS=10000` runs it. Files of faults are kept in build/attack; a fault that is repaired becomes a file in
tests/attack/seeds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.attack.campaign import counted, judge, load_compiler, mutants, stored

MODELS = Path(__file__).parents[1] / "models"


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many mutants")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--keep", type=Path, default=Path("build/attack"), help="folder for the files of faults")
    parser.add_argument("--files", type=Path, help="folder of files to compile instead of mutants")
    parser.add_argument("--verbose", action="store_true", help="print how each ended")
    given = parser.parse_args()
    load_compiler()
    seeds = range(given.first, given.first + given.seeds)
    files = stored(given.files) if given.files else mutants(sorted(MODELS.glob("*.onnx")), seeds)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for job, verdict in judge(files, Path(scratch), given.jobs):
            found.append((job, verdict))
            if verdict.is_fault or given.verbose:
                print(f"{verdict.outcome} {job.name} ({job.told}): {verdict.told}", flush=True)
            if verdict.is_fault:
                given.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(job.folder / "m.onnx", given.keep / f"{job.name}.onnx")
    print(counted(found))
    return int(any(verdict.is_fault for _, verdict in found))


if __name__ == "__main__":
    sys.exit(main())
