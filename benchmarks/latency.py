"""Time a frame: ours beside onnxruntime, OpenVINO and LiteRT, in one run, with the error of each in the same table.

    python benchmarks/latency.py build/models/*.onnx                    # this machine's best instructions
    python benchmarks/latency.py --target avx2 --json avx2.json ...     # what a CPU without VNNI gets

Engines take turns in every round, each with one call to warm up and a few timed ones, so that a change of clock or a
busy neighbour meets all of them. Each thread count has a process of its own. The reference for the error is the file in
onnxruntime with its optimizations off. `onnxruntime INT8` runs the folded file that we write (model_int8.onnx), the
other engines the file as it was exported.

--target avx2 keeps OpenVINO from AVX-512, VNNI and AMX as well (ONEDNN_MAX_CPU_ISA); onnxruntime and LiteRT have no
such switch and use what the machine has.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from engines import INT16_SUMS, LIMIT_TO_AVX2, TFLITE, Feeds, Run, engines, reference  # noqa: E402 - after the path is set

from drpai_qat.core.sqnr import sqnr_db  # noqa: E402

OURS = "drpai-qat"
CALLS = 3  # timed calls of a turn
PAUSE = 0.02  # seconds before a turn: threads of the engine before stop spinning


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", default="host", help="as for the compile command")
@click.option("--threads", multiple=True, type=int, default=(1, 2))
@click.option("--rounds", default=15, help="turns of each engine")
@click.option("--qat-type", default=None, help="pytorch or tensorflow; default: found out")
@click.option("--int16-sums", is_flag=True, help="also time the network compiled with --sums int16")
@click.option("--tflite", is_flag=True, help="also time the INT8 TFLite file of --target tflite in LiteRT")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="also write them here")
@click.option("--worker", type=click.Path(path_type=Path), hidden=True)
def main(
    models: tuple[Path, ...], target: str, threads: tuple[int, ...], rounds: int, qat_type: str | None,
    int16_sums: bool, tflite: bool, json_file: Path | None, worker: Path | None,
) -> None:  # fmt: skip
    if worker is not None:
        print(json.dumps(measure(models[0], worker, threads[0], rounds)))
        return
    rows: list[dict[str, Any]] = []
    console = Console(width=None if sys.stdout.isatty() else 120)
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            compile_model(model, Path(folder) / "out", target, qat_type, "exact")
            if int16_sums:
                compile_model(model, Path(folder) / INT16_SUMS, target, qat_type, "int16")
            if tflite:
                write_tflite(model, Path(folder) / TFLITE, qat_type)
            for count in threads:
                found = run_worker(model, Path(folder) / "out", target, count, rounds)
                rows += [{"model": model.stem, "threads": count, **row} for row in found]
        console.print(table(model.stem, [row for row in rows if row["model"] == model.stem]))
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": machine(), "target": target, "rows": rows}, indent=1) + "\n")


def compile_model(model: Path, folder: Path, target: str, qat_type: str | None, sums: str) -> None:
    """Compile in a process of its own: the compiler's threads and memory stay out of the measurement."""
    code = "import sys, drpai_qat; drpai_qat.compile(sys.argv[1], output_dir=sys.argv[2], target=sys.argv[3], "
    code += "qat_type=sys.argv[4] or None, sums=sys.argv[5], check='none', samples=1)"
    arguments = [sys.executable, "-c", code, str(model), str(folder), target, qat_type or "", sums]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def write_tflite(model: Path, folder: Path, qat_type: str | None) -> None:
    """Our TFLite file; what training left without a range gets it from the samples."""
    inputs = samples(model)
    arrays = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
    data = folder.with_name("samples.npz")
    np.savez(data, **arrays)  # type: ignore[arg-type]
    code = "import sys, drpai_qat; drpai_qat.compile(sys.argv[1], output_dir=sys.argv[2], target='tflite', "
    code += "qat_type=sys.argv[3] or None, samples=sys.argv[4], check='none')"
    arguments = [sys.executable, "-c", code, str(model), str(folder), qat_type or "", str(data)]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def run_worker(model: Path, folder: Path, target: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    environment = {**os.environ, "TVM_NUM_THREADS": str(threads)}
    if target == "avx2":
        environment.update(LIMIT_TO_AVX2)
    command = [sys.executable, __file__, str(model), "--worker", str(folder), "--threads", str(threads)]
    done = subprocess.run(
        [*command, "--rounds", str(rounds)], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def measure(model: Path, folder: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Time and error of every engine that takes the model."""
    feeds = samples(model)
    run = reference(model, threads)
    wanted = [run(one)[0] for one in feeds]
    del run
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, start in engines(model, folder, threads).items():
        try:
            with silenced():
                runs[name] = start()
                got = [np.array(runs[name](one)[0]) for one in feeds]
        except Exception as error:  # a peer that refuses a file is a result, whatever it raises
            rows[name] = {"engine": name, "refused": reason(error)}
            runs.pop(name, None)
            continue
        rows[name] = {"engine": name, "sqnr_db": decibels(wanted, got), "top1_equal": top1(wanted, got)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            time.sleep(PAUSE)
            runs[name](feeds[0])
            for _ in range(CALLS):
                start_time = time.perf_counter()
                runs[name](feeds[0])
                times[name].append(time.perf_counter() - start_time)
    for name, seconds in times.items():
        rows[name].update(
            min_ms=round(min(seconds) * 1e3, 3),
            median_ms=round(median(seconds) * 1e3, 3),
            ours_to_this=round(min(times[OURS]) / min(seconds), 3) if OURS in times else None,
        )
    return list(rows.values())


def reason(error: Exception) -> str:
    """The line that says what is wrong; OpenVINO puts the places in its sources first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[0][:110]


def samples(model: Path, count: int = 4) -> list[Feeds]:
    """Inputs `x...` of the .npz beside the model, in the order of its inputs; random ones where there is none."""
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    constants = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in constants]
    shapes = [tuple(d.dim_value or 1 for d in i.type.tensor_type.shape.dim) for i in inputs]
    file = model.with_suffix(".npz")
    if file.exists():
        stored = np.load(file)
        arrays = [stored[key].astype(np.float32) for key in stored.files if key.startswith("x")]
    else:
        random = np.random.default_rng(0)
        arrays = [random.standard_normal((count * s[0], *s[1:])).astype(np.float32) for s in shapes]
    pairs = list(zip(inputs, shapes, arrays, strict=True))
    count = min(count, *(len(a) // s[0] for _, s, a in pairs))
    return [{i.name: a[n * s[0] : (n + 1) * s[0]].reshape(s) for i, s, a in pairs} for n in range(count)]


def decibels(wanted: list[NDArray[np.float32]], got: list[NDArray[np.float32]]) -> float | None:
    """Signal to error in dB over all samples; None where they are equal."""
    if any(w.shape != g.shape for w, g in zip(wanted, got, strict=True)):
        return None
    ratio = sqnr_db(np.stack(got), np.stack(wanted))
    return None if math.isinf(ratio) else round(ratio, 1)


def top1(wanted: list[NDArray[np.float32]], got: list[NDArray[np.float32]]) -> str | None:
    """Samples whose largest class is the reference's, for outputs (1, classes)."""
    if wanted[0].ndim != 2 or any(w.shape != g.shape for w, g in zip(wanted, got, strict=True)):
        return None
    equal = sum(int(w.argmax() == g.argmax()) for w, g in zip(wanted, got, strict=True))
    return f"{equal}/{len(wanted)}"


@contextmanager
def silenced() -> Iterator[None]:
    """C++ libraries write their complaints to the process's streams."""
    kept = os.dup(1), os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1), os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        for descriptor in (*kept, sink):
            os.close(descriptor)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    result = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("threads", "engine", "min ms", "median ms", "ours / this", "SQNR dB", "top-1"):
        result.add_column(column, justify="left" if column == "engine" else "right")
    for row in rows:
        start = [str(row["threads"]), row["engine"]]
        if "refused" in row:
            result.add_row(*start, "-", "-", "-", "-", "", style="dim")
            result.caption = f"{result.caption or ''}{row['engine']}: {row['refused']}\n"
            continue
        error = "equal" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        figures = [f"{row['min_ms']:.2f}", f"{row['median_ms']:.2f}", f"{row['ours_to_this'] or 0:.2f}"]
        result.add_row(*start, *figures, error, row["top1_equal"] or "")
    return result


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import importlib.metadata

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    versions = {}
    for package in ("apache-tvm", "onnxruntime", "openvino", "ai-edge-litert"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": name,
        "instructions": [f for f in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8") if f in flags],
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
