"""Do two revisions compile the same networks to the same bits?

    python benchmarks/bits.py HEAD~3 .                                  # a revision against this working tree
    python benchmarks/bits.py v0.1.0 HEAD build/models/*.onnx --target avx2

Each revision is checked out beside the other and compiles every model; the sample outputs of its network are hashed.
Without models, those of tests/models are taken. Exit status 3 where a network's outputs differ or one side fails alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

REPOSITORY = Path(__file__).resolve().parents[1]

# Runs in a process of its own that imports the other checkout: only the public contract is used.
_WORKER = """
import hashlib, json, sys, tempfile, pathlib
import drpai_qat
target = sys.argv[1]
for model in sys.argv[2:]:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "out"
        try:
            drpai_qat.compile(model, output_dir=folder, target=target, check="none")
        except drpai_qat.DrpaiQatError as error:
            found = type(error).__name__
        else:
            results = sorted((folder / "interpreter_out").glob("ref_result_*_fp32.bin"))
            found = hashlib.sha256(b"".join(path.read_bytes() for path in results)).hexdigest()[:16]
    print(json.dumps([model, found]), flush=True)
"""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("before")
@click.argument("after")
@click.argument("models", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", default="host", show_default=True, help="as for the compile command; must run here")
def main(before: str, after: str, models: tuple[Path, ...], target: str) -> None:
    chosen = [str(path.resolve()) for path in models or sorted((REPOSITORY / "tests" / "models").glob("*.onnx"))]
    with contextlib.ExitStack() as stack:
        checkouts = [stack.enter_context(_checkout(revision)) for revision in (before, after)]
        sides = [_hashes(checkout, chosen, target) for checkout in checkouts]
    differing = [model for model in chosen if sides[0].get(model) != sides[1].get(model)]
    for model in differing:
        hashes = [side.get(model, "crashed") for side in sides]
        click.echo(f"{Path(model).name}: {hashes[0]} before, {hashes[1]} after")
    refused = sum(len(found) != 16 for found in sides[1].values())
    total = hashlib.sha256("".join(sides[1].values()).encode()).hexdigest()[:16]
    click.echo(f"{target}: {len(chosen)} models, {len(differing)} differ, {refused} refused; all outputs: {total}")
    sys.exit(3 if differing else 0)


@contextlib.contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    """A folder that holds the revision; "." is the working tree itself."""
    if revision == ".":
        yield REPOSITORY
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkout"
        subprocess.run(
            ["git", "-C", str(REPOSITORY), "worktree", "add", "--quiet", "--detach", str(folder), revision], check=True
        )
        try:
            yield folder
        finally:
            subprocess.run(["git", "-C", str(REPOSITORY), "worktree", "remove", "--force", str(folder)], check=True)


def _hashes(checkout: Path, models: list[str], target: str) -> dict[str, str]:
    """Hash of the sample outputs by model; a model on which the process ended is missing."""
    found: dict[str, str] = {}
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    left = models
    while left:
        command = [sys.executable, "-c", _WORKER, target, *left]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout)
        found.update(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
        reached = sum(model in found for model in left)
        left = left[reached + 1 :]  # where it ended early, the next one crashed it
    return found


if __name__ == "__main__":
    main()
