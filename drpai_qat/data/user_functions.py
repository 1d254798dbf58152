"""Functions of the user's, named on the command line: package.module:function, or path/to/file.py:function."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import one_line


def is_function_name(text: str) -> bool:
    """True for MODULE:FUNCTION, and for no path that exists."""
    module, _, function = text.rpartition(":")
    dotted = all(part.isidentifier() for part in function.split("."))
    named = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return bool(module) and dotted and named and not Path(text).exists()


def load_function(text: str, option: str) -> Callable[..., Any]:
    """Import it; the current folder comes first, as with `python -m`.

    Raises: OptionError: there is no such module or function, or importing it fails.
    """
    where = f"{option} {text}"
    module, _, function = text.rpartition(":")
    try:
        found = _import_file(Path(module)) if module.endswith(".py") else _import(module)
    except Exception as error:  # whatever the user's code does
        raise OptionError(f"{where}: importing {module} fails: {blame(error)}") from None
    try:
        return reduce(getattr, function.split("."), found)  # type: ignore[return-value]
    except AttributeError:
        raise OptionError(f"{where}: {module} has no {function}") from None


def _import(module: str) -> object:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(module)


def _import_file(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if str(path.parent) not in sys.path:  # its neighbours are imported as if it were run
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def items(source: Any, where: str) -> Iterator[Any]:
    """What a function yields or returns, or what an object that can be iterated holds; anew at each call.

    Raises: OptionError: it can't be called without arguments or iterated, or fails.
    """
    try:
        given = source() if callable(source) else source
        iterator = iter(given)
    except Exception as error:
        raise OptionError(f"{where}: {blame(error)}") from None
    if iterator is source:
        raise OptionError(f"{where} can be read once only: give the function that makes it")
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise OptionError(f"{where}: {blame(error)}") from None
        yield item


def blame(error: BaseException) -> str:
    """What the user's code raised, and where."""
    frames = [
        one
        for one in traceback.extract_tb(error.__traceback__)
        if "importlib" not in one.filename and one.filename != __file__
    ]
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{at}"
