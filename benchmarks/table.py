"""The figures of latency.py as a Markdown table.

    python benchmarks/table.py avx2.json > table.md

One line a model: milliseconds a frame (minimum over the rounds) with 1 and 2 threads, our time as a share of the best
peer's. A peer's SQNR stands beside it where it is more than 6 dB below ours: that peer is fast and wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

OURS = "drpai-qat"
DOUBTFUL_DB = 6.0

Rows = dict[tuple[int, str], dict[str, Any]]


@click.command(help=__doc__)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    found = json.loads(file.read_text())
    machine = found["machine"]
    click.echo(f"{machine['cpu']}, {machine['cores']} cores, target {found['target']}, {machine['date']}; ", nl=False)
    click.echo(", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + "\n")
    engines = list(dict.fromkeys(row["engine"] for row in found["rows"]))
    peers = [engine for engine in engines if engine != OURS]
    click.echo("| model | ours | SQNR | " + " | ".join(peers) + " | ours / best peer |")
    click.echo("|---|---|---|" + "---|" * (len(peers) + 1))
    for model in dict.fromkeys(row["model"] for row in found["rows"]):
        rows = {(row["threads"], row["engine"]): row for row in found["rows"] if row["model"] == model}
        click.echo(line(model, rows, peers))


def line(model: str, rows: Rows, peers: list[str]) -> str:
    """One model's row."""
    counts = sorted({threads for threads, _ in rows})
    ours = {threads: rows[threads, OURS] for threads in counts}
    cells = [model, times([ours[threads] for threads in counts]), decibels(ours[counts[0]])]
    for peer in peers:
        own = [rows[threads, peer] for threads in counts if (threads, peer) in rows]
        cells.append(times(own) + doubt(own, ours[counts[0]]))
    ratios = []
    for threads in counts:
        others = [rows[threads, peer]["min_ms"] for peer in peers if "min_ms" in rows.get((threads, peer), {})]
        ratios.append(f"{ours[threads]['min_ms'] / min(others):.2f}" if others else "-")
    return "| " + " | ".join([*cells, " / ".join(ratios)]) + " |"


def times(rows: list[dict[str, Any]]) -> str:
    if not rows or any("refused" in row for row in rows):
        return "refuses" if rows else "-"
    return " / ".join(f"{row['min_ms']:.1f}" for row in rows)


def decibels(row: dict[str, Any]) -> str:
    return "equal" if row.get("sqnr_db") is None else f"{row['sqnr_db']:.0f} dB"


def doubt(rows: list[dict[str, Any]], ours: dict[str, Any]) -> str:
    """A peer's SQNR where it is far below ours."""
    if not rows or "refused" in rows[0] or rows[0]["sqnr_db"] is None:
        return ""
    limit = 60.0 if ours["sqnr_db"] is None else ours["sqnr_db"]
    return f" ({decibels(rows[0])})" if rows[0]["sqnr_db"] < min(limit, 60.0) - DOUBTFUL_DB else ""


if __name__ == "__main__":
    main()
