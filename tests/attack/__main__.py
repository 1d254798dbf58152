"""python -m tests.attack --seeds N: work on N mutants; status 1 if one is a fault (--help lists the options).

`make attack SEEDS=10000` runs it. What faults need is kept in build/attack, as zip files; a fault that is repaired
becomes a file in tests/attack/seeds, or a test of what was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.attack.campaign import FINE, counted, judge
from tests.attack.child import load_compiler
from tests.attack.tasks import Task, bundled, mutants, stored

Ended = dict[str, str]


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many mutants")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--real-every", type=int, default=0, help="run every so many as a user does, for comparison")
    parser.add_argument("--keep", type=Path, default=Path("build/attack"), help="folder for the files of faults")
    parser.add_argument("--record", type=Path, help="file of what has ended how: it is not done again, but for faults")
    parser.add_argument("--files", type=Path, help="folder of files to compile instead of mutants")
    parser.add_argument("--verbose", action="store_true", help="print how each ended")
    given = parser.parse_args()
    load_compiler()
    ended = _read(given.record)
    done = {name for name, one in ended.items() if one["outcome"] in FINE}
    seeds = [seed for seed in range(given.first, given.first + given.seeds) if str(seed) not in done]
    ended.update(_work(given, stored(given.files) if given.files else mutants(seeds)))
    print(counted([(one["kind"], one["command"], one["outcome"]) for one in ended.values()]))
    return int(any(one["outcome"] not in FINE for one in ended.values()))


def _read(record: Path | None) -> dict[str, Ended]:
    """What has ended how, by seed; the last time counts."""
    lines = record.read_text().splitlines() if record is not None and record.exists() else []
    return {one["name"].partition("-")[0]: one for one in map(json.loads, lines)}


def _work(given: argparse.Namespace, tasks: Iterator[Task]) -> dict[str, Ended]:
    ended = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch  # what a process that is ended leaves behind goes with it
        for task, verdict in judge(tasks, Path(scratch), given.jobs, given.real_every):
            one = {"name": task.name, "kind": task.kind, "command": task.way, "done": task.told, **vars(verdict)}
            ended[task.name.partition("-")[0]] = one
            if given.record:
                with given.record.open("a") as file:
                    file.write(json.dumps(one) + "\n")
            if verdict.is_fault or given.verbose:
                print(f"{verdict.outcome} {task.name} ({task.way}; {task.told}): {verdict.told}", flush=True)
            if verdict.is_fault:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{task.name}.zip").write_bytes(bundled(task))
    return ended


if __name__ == "__main__":
    sys.exit(main())
