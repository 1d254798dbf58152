"""The argument of commands that take a compiled network."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
FOLDER = click.argument("folder", metavar="OUT", type=PATH)
