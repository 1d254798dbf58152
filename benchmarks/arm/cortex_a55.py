"""Cycles of code on a Cortex-A55: an estimate by a small model of its in-order pipeline, which issues two a cycle.

Numbers are those that public models and kernels derive from Arm's Cortex-A55 Software Optimization Guide (EPM128372):
slothy's Cortex-A55 model, and the notes on dual issue in ncnn's and onnxruntime's sources; those of rare instructions
(divide, square root) are from memory. The guide itself was not at hand. 128-bit vector operations take both 64-bit
vector pipelines, so one starts a cycle, beside a scalar instruction or a load; a load of 128 bits keeps the load unit
for two cycles, in which nothing else starts (64-bit loads do start beside others). All data is taken to be in the
first-level cache and all branches as predicted, so the result is a lower bound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from blocks import disassemble

_ROUNDS = 3  # of a block: the last one is measured, when the registers it needs come from the one before


@dataclass(frozen=True)
class Timing:
    """How an instruction issues.

    Attributes:
        unit: "vector" (1 or 2 of two pipelines), "memory", "alu" (two), "multiply", "branch".
        width: pipelines of its unit that it takes.
        busy: cycles for which it takes them.
        alone: nothing else issues while it is busy.
        latency: cycles from issue until its result can be used.
    """

    unit: str
    width: int
    busy: int
    alone: bool
    latency: int


_PIPELINES = {"vector": 2, "memory": 1, "alu": 2, "multiply": 1, "branch": 1}
_VECTOR_LATENCY = (
    (r"fdiv|fsqrt", 13),
    (r"[su]dot|[su]mu?ll|[su]mlal|sml|uml|f|[su]cvtf|mul|mla|[su]adalp|[su]addlp|sq|uq|addv", 4),
    (r"add|sub|[su]max|[su]min|shr|sshl|ushl|sshr|ushr|abs", 3),
)


def timing(mnemonic: str, operands: str) -> Timing:
    """Of one instruction, as a disassembler writes it."""
    wide = re.search(r"\bq\d+\b|\.(16b|8h|4s|2d)\b", operands) is not None
    vector = wide or re.match(r"[vdshb]\d", operands) is not None
    if mnemonic.startswith("ld"):
        registers = 2 if mnemonic.startswith(("ldp", "ldnp")) else max(1, len(re.findall(r"v\d+\.", operands)))
        if re.match(r"q\d", operands) or (mnemonic in ("ld1", "ld1r") and wide):
            return Timing("memory", 1, (1 if mnemonic == "ld1r" else 2) * registers, mnemonic != "ld1r", 4)
        return Timing("memory", 1, registers, False, 3)
    if mnemonic.startswith("st"):
        registers = 2 if mnemonic.startswith(("stp", "stnp")) else max(1, len(re.findall(r"v\d+\.", operands)))
        return Timing("memory", 1, registers, False, 1)
    if vector:
        latency = next((cycles for names, cycles in _VECTOR_LATENCY if re.match(names, mnemonic)), 2)
        busy = 10 if latency == 13 else 1
        widening = re.match(r"[su]mull|[su]mlal|[su]mlsl|[su]shll|sxtl|uxtl", mnemonic) is not None
        return Timing("vector", 2 if wide or widening else 1, busy, False, latency)
    if re.match(r"b$|b\.|bl|br|ret|cb|tb", mnemonic):
        return Timing("branch", 1, 1, False, 1)
    if re.match(r"[su]?m(ul|add|sub|neg)|[su]m(add|sub|ull|ulh)", mnemonic):
        return Timing("multiply", 1, 1, False, 3)
    if mnemonic.endswith("div"):
        return Timing("multiply", 1, 8, True, 8)
    return Timing("alu", 1, 1, False, 1)


def _registers(mnemonic: str, operands: str) -> tuple[list[str], list[str]]:
    """Names of those written and those read."""
    operands = re.sub(r"//.*|<.*", "", operands)
    names = [_name(kind, number) for kind, number in re.findall(r"\b([vqdshbxw])(\d+)\b", operands)]
    if mnemonic.startswith(("st", "cmp", "tst", "b", "cb", "tb", "ret", "prfm", "nop")) and mnemonic != "bic":
        return (["flags"] if mnemonic in ("cmp", "tst") else []), names + (["flags"] if mnemonic == "b.ne" else [])
    count = 2 if mnemonic.startswith("ldp") else max(1, len(re.findall(r"v\d+\.", operands.split("[")[0])))
    written = names[: count if mnemonic.startswith("ld") else 1]
    accumulates = re.match(r"[su]dot|[su]ml[as]l|ml[as]|fml[as]|[su]adalp|bif|bit|bsl|ins|sqxtn2|xtn2|movk", mnemonic)
    read = names if accumulates or len(names) == len(written) else names[len(written) :]
    if mnemonic.startswith("ld") and re.search(r"\]!|\],", operands):
        written = [*written, *names[count:][:1]]
    return written, read


def _name(kind: str, number: str) -> str:
    return ("v" if kind in "vqdshb" else "x") + number


def cycles_of(blocks: Sequence[tuple[int, ...]]) -> list[float]:
    """Cycles of each block of instructions, run again and again."""
    words = sorted({word for code in blocks for word in code})
    known = {}
    for word, text in zip(words, disassemble(words), strict=True):
        known[word] = timing(*text), *_registers(*text)
    return [_cycles([known[word] for word in code]) for code in blocks]


def _cycles(code: Sequence[tuple[Timing, list[str], list[str]]]) -> float:
    ready: dict[str, int] = {}
    free = {unit: [0] * count for unit, count in _PIPELINES.items()}
    cycle, slots, blocked = 0, 0, 0
    ends = []
    for _ in range(_ROUNDS):
        for one, written, read in code:
            pipelines = sorted(free[one.unit])
            start = max(cycle, blocked, pipelines[one.width - 1], *(ready.get(name, 0) for name in read), 0)
            if start == cycle and (slots == 2 or (one.alone and slots)):
                start = max(start + 1, blocked)
            if start > cycle:
                cycle, slots = start, 0
            slots += 1
            free[one.unit] = [start + one.busy] * one.width + pipelines[one.width :]
            if one.alone:
                blocked = start + one.busy
            for name in written:
                ready[name] = start + one.latency
        ends.append(cycle)
    return max(ends[-1] - ends[-2], 1)
