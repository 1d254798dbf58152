"""Images with answers: a folder with one for each class, or a CSV file of file and label."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import listed, one_line
from drpai_qat.data.examples import PHOTOS, Example, IndexedData, Read, spread
from drpai_qat.data.image_files import Skipped, UnreadableImageError, find_files, load_pixels, pillow

_FILE_COLUMNS = ("file", "filename", "filepath", "path", "image", "image_path", "name")
_LABEL_COLUMNS = ("label", "class", "target", "category", "y")


def open_class_folders(folder: Path, names: Sequence[str] | None, most: int | None) -> IndexedData:
    """Images in a folder for each class: the folders in the order of their names are classes 0, 1, ...

    Args:
        names: classes in the network's order, where that is another; None: the folders'.
        most: number of images, spread over all.
    Raises: OptionError: there is no folder of images, or one that `names` does not hold.
    """
    where = f"--data {folder}"
    pillow()
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise OptionError(f"{where}: no folders in it: put the images of each class into one, or give a CSV file")
    classes = list(found if names is None else names)
    _check_known(found, classes, where)
    files = [
        (path, classes.index(name)) for name in found if any((folder / name).iterdir())
        for path in find_files(folder / name, "--data")
    ]  # fmt: skip
    if not files:
        raise OptionError(f"{where}: no file in its folders")
    return _images(folder.name or str(folder), files, folder, classes, most)


def open_csv(path: Path, names: Sequence[str] | None, most: int | None) -> IndexedData:
    """A CSV file whose lines name an image, relative to it, and its class: a number, or a name.

    A first line that names the columns may say which they are; without one they are the first two.

    Raises: OptionError: it can't be read, a line is not of that form, or a class is not in `names`.
    """
    where = f"--data {path}"
    pillow()
    lines = _lines(path, where)
    head = [cell.strip().lower() for cell in lines[0]]
    at = [next((head.index(one) for one in known if one in head), None) for known in (_FILE_COLUMNS, _LABEL_COLUMNS)]
    named = at[0] is not None and at[1] is not None
    file_at, label_at = (at[0] or 0, at[1] or 0) if named else (0, 1)
    rows: list[tuple[Path, str]] = []
    for number, line in enumerate(lines[named:], 1 + named):
        if len(line) <= max(file_at, label_at):
            raise OptionError(f"{where}: line {number} has {len(line)} columns: write file,label")
        rows.append((path.parent / line[file_at].strip(), line[label_at].strip()))
    if not rows:
        raise OptionError(f"{where}: no line in it")
    texts = sorted({label for _, label in rows})
    if names is None and all(text.isdigit() for text in texts):
        return _images(path.name, [(file, int(label)) for file, label in rows], path.parent, [], most)
    classes = list(texts if names is None else names)
    _check_known(texts, classes, where)
    return _images(path.name, [(file, classes.index(label)) for file, label in rows], path.parent, classes, most)


def _lines(path: Path, where: str) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        found = [
            line for line in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in line)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{where}: can't be read: {one_line(getattr(error, 'strerror', None) or error)}") from None
    if not found:
        raise OptionError(f"{where}: no line in it")
    return found


def _check_known(found: Sequence[str], classes: Sequence[str], where: str) -> None:
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise OptionError(f"{where}: class {one_line(listed(unknown))} is not in --labels")


def _images(
    name: str, files: Sequence[tuple[Path, int]], base: Path, classes: Sequence[str], most: int | None
) -> IndexedData:
    def get(index: int) -> Read:
        path, label = files[index]
        shown = str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
        try:
            return Example(index, shown, load_pixels(path), label, True)
        except UnreadableImageError as error:
            return Skipped(shown, str(error))

    return IndexedData(name, spread(len(files), most), get, dict(PHOTOS), classes)
