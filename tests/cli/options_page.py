"""Writes docs/options.md from the statement of the options: python -m tests.cli.options_page"""

from __future__ import annotations

from dataclasses import Field
from pathlib import Path
from typing import Any

from drpai_qat.check.thresholds import Thresholds
from drpai_qat.cli.click_options import Titled, default_text
from drpai_qat.cli.compile import compile_command
from drpai_qat.core.option_groups import Option, bounds, options_of
from drpai_qat.options import CompileOptions

PAGE = Path(__file__).parents[2] / "docs/options.md"

_HEAD = """\
# Options of the compiler

    python compile_onnx_model_quant.py MODEL.onnx [OPTIONS]
    drpai-qat compile MODEL.onnx [OPTIONS]

Long options may be written with dashes: `--min-sqnr` is `--min_sqnr`. The last column is the name in Python, where
`drpai_qat.compile(model, ...)` does the same; names marked with \\* belong to `thresholds=Thresholds(...)` of
`drpai_qat.check.thresholds`. There, `samples` may also be arrays by name of the network input, or a number of random
samples, and `progress` is told of each stage.

This page is made from the code: `python -m tests.cli.options_page` writes it.
"""

_TABLE = "| option | | default | in Python |\n|---|---|---|---|"


def page() -> str:
    """The text of docs/options.md."""
    stated = {field.name: (field, option) for field, option in options_of(CompileOptions)}
    sections: dict[str, list[str]] = {}
    for parameter in compile_command.params:
        if isinstance(parameter, Titled):
            name = str(parameter.name)
            row = _row(*stated[name]) if name in stated else _cells(", ".join(parameter.opts), parameter.help or "")
            sections.setdefault(parameter.title, []).append(row)
    return _HEAD + "".join(f"\n## {title}\n\n{_TABLE}\n" + "\n".join(rows) + "\n" for title, rows in sections.items())


def _row(field: Field[Any], option: Option) -> str:
    values = "|".join(option.choices) or option.metavar
    told = f"{option.help.rstrip('.')} ({bounds(option)})." if bounds(option) else option.help
    name = f"{field.name}=False" if option.kind is bool and field.default else field.name
    mark = " \\*" if field.name in Thresholds.__dataclass_fields__ else ""
    return _cells(f"{', '.join(option.names)} {values}".strip(), told, default_text(field, option), f"`{name}`{mark}")


def _cells(spelled: str, told: str, default: str = "", keyword: str = "") -> str:
    return (
        "| "
        + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in (f"`{spelled}`", told, default, keyword))
        + " |"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
