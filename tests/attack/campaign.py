"""Compiles mutants by the public command, each in a process of its own with limits, and judges how that ended."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.attack.mutation import mutant

ADDRESS_SPACE = 12 * 2**30
"""Bytes that a process may map: the libraries map several GB that they never touch."""
MEMORY = 4 * 2**30
"""Bytes that it may have in use."""
CPU_SECONDS = 60
WALL_SECONDS = 600
"""For what hangs without computing; a busy machine may take long."""
_LEAST_DB = 30.0

FINE = ("compiled", "refused", "fell short")
"""Outcomes that are documented: status 0 with the right numbers, 1 and 3 with words."""


@dataclass(frozen=True)
class Verdict:
    """How a file ended.

    Attributes:
        outcome: one of FINE, or "internal", "traceback", "signal", "time", "memory", "wrong", "status".
        told: the last line on stderr, or what was wrong.
    """

    outcome: str
    told: str

    @property
    def is_fault(self) -> bool:
        """Ours, whatever the file is."""
        return self.outcome not in FINE


@dataclass
class _Job:
    name: str
    kind: str
    told: str
    folder: Path
    started: float = field(default_factory=time.monotonic)


def load_compiler() -> None:
    """Import what a compilation imports, so that the processes that are forked need not."""
    import drpai_qat.backends.cpu.compilation
    import drpai_qat.cli.main
    import drpai_qat.pipeline  # noqa: F401


def judge(files: Iterator[tuple[str, str, str, bytes]], scratch: Path, jobs: int) -> Iterator[tuple[_Job, Verdict]]:
    """Compile files, several at a time.

    Args:
        files: name, kind, what was done, content.
        scratch: folder for them.
    """
    running: dict[int, _Job] = {}
    waiting = True
    while waiting or running:
        while waiting and len(running) < jobs:
            one = next(files, None)
            if one is None:
                waiting = False
                break
            name, kind, told, content = one
            folder = scratch / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "m.onnx").write_bytes(content)
            job = _Job(name, kind, told, folder)
            running[_start(folder)] = job
        for number, job in list(running.items()):
            done, status, usage = os.wait4(number, os.WNOHANG)
            if not done:
                if time.monotonic() - job.started > WALL_SECONDS:
                    os.killpg(number, signal.SIGKILL)
                continue
            del running[number]
            yield job, _verdict(job, status, usage.ru_maxrss * 1024)
            shutil.rmtree(job.folder, ignore_errors=True)
        time.sleep(0.02)


def _start(folder: Path) -> int:
    """Fork a process that compiles the file in a folder; returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        return number
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        errors = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(folder)
        from drpai_qat.cli.main import compile_main

        arguments = ["m.onnx", "-o", "out", "--quiet", "--max-memory", str(MEMORY // 2)]
        status = compile_main(arguments)
        if status == 0:
            (folder / "wrong").write_text(_wrong(folder))
        os._exit(status)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def _verdict(job: _Job, status: int, memory: int) -> Verdict:
    text = (job.folder / "stderr").read_text(errors="replace").strip()
    last = text.splitlines()[-1][:300] if text else ""
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return Verdict("time", f"over {CPU_SECONDS} s of CPU time, or {WALL_SECONDS} s in all")
    if code < 0:
        return Verdict("signal", f"{signal.Signals(-code).name}: {last}")
    if memory > MEMORY:
        return Verdict("memory", f"{memory / 2**30:.1f} GB: {last}")
    if "Traceback (most" in text:
        return Verdict("traceback", last)
    if "internal:" in text or "please report" in text:
        return Verdict("internal", last)
    made = (job.folder / "out").exists()
    if code == 1 and last.startswith("error: ") and not made:
        return Verdict("refused", last)
    if code == 3 and made:
        return Verdict("fell short", last)
    if code == 0 and made:
        wrong = (job.folder / "wrong").read_text()
        return Verdict("wrong", wrong) if wrong else Verdict("compiled", "")
    return Verdict("status", f"{code}, {'a' if made else 'no'} folder: {last}")


def _wrong(folder: Path) -> str:
    """What is wrong with the numbers of a compiled network, held against the file itself in onnxruntime; "" if nothing.

    A network that amplifies single roundings is left to the certificate of its layers, which the report holds.
    """
    import onnxruntime as ort

    import drpai_qat

    report = json.loads((folder / "out" / "report.json").read_text())
    if report["check"]["amplified"]:
        return ""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        source = ort.InferenceSession(str(folder / "m.onnx"), options)
    except Exception:  # a dialect that is translated: the command compared with the translation
        return ""
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    if any(one.type not in kinds for one in source.get_inputs()):
        return ""
    network = drpai_qat.load(folder / "out")
    feeds = {}
    for index, info in enumerate(network.inputs):
        stored = np.fromfile(folder / "out" / "interpreter_out" / f"input_{index}.bin", "<f4").reshape(info.shape)
        feeds[info.name] = stored.astype(info.dtype)
    given = {one.name: feeds[one.name].astype(kinds[one.type]) for one in source.get_inputs() if one.name in feeds}
    try:
        wanted = dict(zip([one.name for one in source.get_outputs()], source.run(None, given), strict=True))
    except Exception as error:
        return f"exit 0, and onnxruntime does not run it: {str(error)[:200]}"
    found = network.run(feeds)
    for name, theirs in wanted.items():
        if theirs.dtype.kind in "iu" and theirs.dtype.itemsize < 4:
            continue  # integers of a grid, which the network hands out as reals
        ours, reference = np.asarray(found[name], np.float64), np.asarray(theirs, np.float64)
        if ours.shape != reference.shape:
            return f"{name}: shape {ours.shape}, not {reference.shape}"
        noise, signal_ = np.square(ours - reference).sum(), np.square(reference).sum()
        if noise > 0 and not 10 * np.log10(max(signal_, 1e-300) / noise) >= _LEAST_DB:
            return f"{name}: {10 * np.log10(max(signal_, 1e-300) / noise):.1f} dB"
    return ""


def mutants(models: Sequence[Path], seeds: Sequence[int]) -> Iterator[tuple[str, str, str, bytes]]:
    """The files of seeds: each model in turn."""
    for seed in seeds:
        model = models[seed % len(models)]
        made = mutant(model.read_bytes(), seed)
        yield f"{seed}-{model.stem}", made.kind, made.told, made.content


def stored(folder: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """The files in a folder."""
    for path in sorted(folder.glob("*.onnx")):
        yield path.stem, "stored", "", path.read_bytes()


def counted(found: Sequence[tuple[_Job, Verdict]]) -> str:
    """A table of outcomes by kind of mutation, as Markdown."""
    outcomes = sorted({verdict.outcome for _, verdict in found} | set(FINE), key=lambda one: (one not in FINE, one))
    counts = Counter((job.kind, verdict.outcome) for job, verdict in found)
    lines = [f"| mutation | files | {' | '.join(outcomes)} |", "|---|" + "---|" * (len(outcomes) + 1)]
    for kind in (*sorted({job.kind for job, _ in found}), "all"):
        row = [sum(number for (k, o), number in counts.items() if o == one and kind in (k, "all")) for one in outcomes]
        lines.append(f"| {kind} | {sum(row)} | {' | '.join(map(str, row))} |")
    return "\n".join(lines)
