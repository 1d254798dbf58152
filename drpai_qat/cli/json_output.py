"""`--json`: what a command found, on stdout, for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from drpai_qat.cli.click_options import Titled

SCHEMA_VERSION = 1
"""Grows where a key changes its meaning or goes; new keys alone leave it."""


def json_flag() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flag, as `as_json`."""
    return click.option(
        "--json", "as_json", cls=Titled, title="Messages", is_flag=True,
        help="Print the result as JSON on stdout, and nothing else there.",
    )  # fmt: skip


def print_json(content: Mapping[str, Any]) -> None:
    """Print on stdout, with `schema_version` first."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=2, allow_nan=False))
