"""What --data names: which reader serves which form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import one_line
from drpai_qat.data.examples import Data, Example, StreamedData
from drpai_qat.data.labelled_arrays import open_cifar10, open_digits, open_mnist, open_npz
from drpai_qat.data.labelled_images import open_class_folders, open_csv
from drpai_qat.data.user_functions import is_function_name, items, load_function

_KINDS: dict[str, Callable[[Path, int | None], Data]] = {"mnist": open_mnist, "cifar10": open_cifar10}
_DIGITS = ("digits", "mnist5k")  # the second is what samples/ call them

FORMS = "a folder of class folders, a .csv or .npz file, mnist:DIR, cifar10:DIR, digits, or MODULE:FUNCTION"


def open_data(given: str | Path | Callable[[], Any], labels: str | Path | None = None, most: int | None = None) -> Data:
    """Open data with answers.

    Args:
        given: see FORMS; a function yields pairs of an input and its answer.
        labels: file that names the classes in the network's order, one on each line; for folders and CSV files.
        most: number of examples; None: all.
    Raises: OptionError: there is no such data, or it is not of its form.
    """
    if not isinstance(given, str | os.PathLike):
        return _from_function(given, getattr(given, "__name__", type(given).__name__), most)
    text, path = str(given), Path(given)
    kind, _, folder = text.partition(":")
    if kind in _KINDS and folder:
        return _KINDS[kind](Path(folder).expanduser(), most)
    if text in _DIGITS and not path.exists():
        return open_digits(most)
    if is_function_name(text):
        return _from_function(load_function(text, "--data"), text, most)
    if path.is_dir():
        return open_class_folders(path, class_names(labels), most)
    if not path.exists():
        raise OptionError(f"--data {text}: no such file or folder: give {FORMS}")
    if path.suffix == ".npz":
        return open_npz(path, most)
    if path.suffix in (".csv", ".tsv", ".txt"):
        return open_csv(path, class_names(labels), most)
    raise OptionError(f"--data {text}: give {FORMS}")


def class_names(path: str | Path | None) -> Sequence[str] | None:
    """The names in a file of --labels; None for none.

    Raises: OptionError: it can't be read, or is empty.
    """
    if path is None:
        return None
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--labels {path}: can't be read: {getattr(error, 'strerror', None) or 'not text'}") from None
    while names and not names[-1]:
        names.pop()
    if not names:
        raise OptionError(f"--labels {path}: no name in it")
    return names


def _from_function(given: Any, name: str, most: int | None) -> Data:
    where = f"--data {one_line(name)}"

    def read() -> Iterator[Example]:
        for index, pair in enumerate(items(given, where)):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                kind = type(pair).__name__
                raise OptionError(f"{where}: example {index} is a {kind}: yield pairs of an input and its answer")
            yield Example(index, str(index), pair[0], pair[1], False)

    return StreamedData(name, read, most)
