"""`drpai-qat evaluate`: accuracy on the user's data, beside that of another network."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpai_qat.cli.click_options import Titled, TitledCommand, group_from, options_from
from drpai_qat.cli.exit_status import DONE, guarded, say
from drpai_qat.core.text import one_line
from drpai_qat.evaluation.evaluate_options import EvaluateOptions

if TYPE_CHECKING:
    from drpai_qat.evaluation.evaluate import Change, Evaluation

_SHOWN = 10
"""Changed answers that the terminal lists; --json has all."""

flag = partial(click.option, cls=Titled, is_flag=True)


@click.command(cls=TitledCommand, short_help="Accuracy of a network on data, beside another's.")
@click.argument("network", metavar="OUT")
@options_from(EvaluateOptions)
@flag("--json", "as_json", title="Messages", help="Print JSON instead of tables, with every changed answer.")
@flag("--quiet", title="Messages", help="Print no progress.")
@click.pass_context
def evaluate_command(context: click.Context, /, **values: Any) -> None:
    """Accuracy of a network on data with answers, beside that of another one.

    OUT is a compiled folder, a .tflite or an .onnx file. Exit status: 0 evaluated, 1 error, 2 wrong usage.
    """
    options = group_from(EvaluateOptions, context, values, network=values["network"])
    context.exit(guarded(lambda _: _evaluate(options, values["as_json"], values["quiet"]), verbose=False))


def _evaluate(options: EvaluateOptions, as_json: bool, quiet: bool) -> int:
    from drpai_qat.core import console_progress, progress
    from drpai_qat.evaluation import evaluate
    from drpai_qat.evaluation.answers import open_contest

    contest = open_contest(options)
    stages = progress.Silent() if quiet else console_progress.for_console(Console(stderr=True))
    total, done = contest.data.count, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if total is not None:
            progress.step(stages, done, max(total, done))

    with stages.stage("evaluating"):
        found = evaluate.run(contest, options, advance)
    for text in found.warnings:
        say(f"warning: --data {one_line(found.data)}: {one_line(text, 1000)}")
    if as_json:
        click.echo(str(found))
    else:
        _show(found)
    return DONE


def _show(found: Evaluation) -> None:
    console = Console()
    console.print(Text(f"{one_line(found.data)}: {found.count} examples"), soft_wrap=True)
    for text in dict.fromkeys(score.preprocessing for score in found.scores if score.preprocessing):
        console.print(Text(f"preprocessing: {text}"), soft_wrap=True)
    figures = list(dict.fromkeys(name for score in found.scores for name in score.figures))
    table = Table(box=None, pad_edge=False, header_style="bold")
    top5 = any(score.correct_in_5 is not None for score in found.scores)
    heads = [*(["top-1"] if not figures else []), *(["top-5"] if top5 else []), *figures, "latency, median"]
    for head in ("network", *heads, "runs in"):
        table.add_column(head, justify="right" if head in heads else "left", overflow="fold")
    for number, score in enumerate(found.scores):
        accuracy = found.accuracy(number)
        cells = [] if accuracy is None else [f"{accuracy:.2%}"]
        if top5:
            cells.append("-" if score.correct_in_5 is None else f"{score.correct_in_5 / found.count:.2%}")
        cells += [f"{score.figures[name]:.4f}" if name in score.figures else "-" for name in figures]
        table.add_row(Text(one_line(score.name)), *cells, f"{score.latency_ms:.3f} ms", score.runs_in.split(",")[0])
    console.print(table)
    if found.agreement is not None:
        console.print(f"same answer: {found.agreement:.2%}, {len(found.changed)} differ", highlight=False)
        _show_changes(found.changed, found.classes, console)
    for line in _closing(found):
        click.echo(line)


def _show_changes(changed: tuple[Change, ...], classes: tuple[str, ...], console: Console) -> None:
    if not changed:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("example", "class", "quantized", "other"):
        table.add_column(head, overflow="fold")
    for one in changed[:_SHOWN]:
        numbers = (one.label, one.answer, one.other)
        table.add_row(
            Text(one_line(one.name)),
            *(Text(one_line(classes[number]) if number < len(classes) else str(number)) for number in numbers),
        )
    console.print(table)
    if len(changed) > _SHOWN:
        console.print(f"and {len(changed) - _SHOWN} more: --json lists them", highlight=False)


def _closing(found: Evaluation) -> list[str]:
    """The lines that tutorials of this field end with."""
    lines = []
    for number in reversed(range(len(found.scores))):
        accuracy = found.accuracy(number)
        kind = found.scores[number].kind
        which = "Other" if number and kind == found.scores[0].kind else kind.capitalize()
        if accuracy is not None:
            lines.append(f"{which} model accuracy: {accuracy:.4f}")
    return lines
