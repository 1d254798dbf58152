"""Where the time of a compilation goes, how much memory it takes, and how large its files are.

    python benchmarks/compile.py build/models/*.onnx
    python benchmarks/compile.py --target avx2 --check outputs --json compile.json build/models/resnet50_raw.onnx

Each model is compiled in a process of its own, as the command does it. Processor seconds are those of all threads: on a
busy machine they tell more than elapsed ones. Memory is the larger of this process and the one that runs the compiler;
both are alive at once, so their sum bounds what the command takes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", default="host", help="as for the compile command")
@click.option("--check", default="outputs", type=click.Choice(["outputs", "layers", "none"]))
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="also write them here")
@click.option("--worker", is_flag=True, hidden=True)
def main(models: tuple[Path, ...], target: str, check: str, json_file: Path | None, worker: bool) -> None:
    if worker:
        print(json.dumps(measure(models[0], target, check)))
        return
    rows = []
    console = Console(width=None if sys.stdout.isatty() else 120)
    for model in models:
        command = [sys.executable, __file__, str(model), "--worker", "--target", target, "--check", check]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        console.print(table(rows[-1]))
    if json_file is not None:
        json_file.write_text(json.dumps({"target": target, "cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")


def measure(model: Path, target: str, check: str) -> dict[str, Any]:
    """Compile once and weigh the result."""
    import drpai_qat
    from drpai_qat.core.progress import Silent

    stages = Silent()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        start = time.perf_counter()
        report = drpai_qat.compile(model, output_dir=folder, target=target, check=check, progress=stages)
        elapsed = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "model": model.stem,
        "seconds": round(elapsed, 2),
        "processor_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 2),
        "stages": {stage: round(seconds, 2) for stage, seconds in stages.seconds.items()},
        "memory_mb": {who: u.ru_maxrss // 1024 for who, u in zip(("command", "compiler"), usage, strict=True)},
        "size": report.size.to_json(),
    }


def table(row: dict[str, Any]) -> Table:
    size = row["size"]
    memory = ", ".join(f"{who} {megabytes} MB" for who, megabytes in row["memory_mb"].items())
    caption = f"processor {row['processor_seconds']:.1f} s; peak memory: {memory}\n"
    caption += f"deploy.so {size['deploy.so'] / 1e6:.1f} MB, deploy.params {size['deploy.params'] / 1e6:.1f} MB"
    caption += f" ({size['params_bytes_a_weight']} bytes a weight)\nactivations {size['workspace'] / 1e6:.2f} MB, "
    caption += f"alive at once {size['largest_live_activations'] / 1e6:.2f} MB"
    result = Table(title=row["model"], title_justify="left", caption=caption, caption_justify="left")
    result.add_column("stage")
    result.add_column("s", justify="right")
    result.add_column("%", justify="right")
    for stage, seconds in row["stages"].items():
        result.add_row(stage, f"{seconds:.2f}", f"{100 * seconds / row['seconds']:.0f}")
    result.add_section()
    result.add_row("all", f"{row['seconds']:.2f}", "100")
    return result


if __name__ == "__main__":
    main()
