"""Sample inputs that the user gives: a .npz file, a folder of .npy files, or arrays.

Nothing is trusted: names, shapes, types and values are held against the network's inputs, and whatever does not fit is
said in one line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo, takes
from drpai_qat.core.text import listed, one_line
from drpai_qat.data.array_files import UNREADABLE


@dataclass(frozen=True, eq=False)
class GivenSamples:
    """Arrays as they were given.

    Attributes:
        name: of the file or folder; "" for arrays.
        sha256: of the file; of a folder, that of the names and hashes of its files; of arrays, that of their content.
        arrays: by name of the network input.
    """

    name: str
    sha256: str
    arrays: Mapping[str, NDArray]

    def to_json(self, used: int) -> dict[str, object]:
        """As it stands in deploy.json; `used`: how many samples were run."""
        return {"name": self.name or None, "sha256": self.sha256, "used": used}

    def cut(self, inputs: Sequence[TensorInfo]) -> list[dict[str, NDArray]]:
        """Cut the arrays into sets of network inputs.

        Args:
            inputs: the network's. For shape (B, ...) an array holds k samples as (k * B, ...) or as (k, B, ...).
        Returns: k sets, in the type of the inputs.
        Raises: OptionError: an array is missing, unknown, or does not fit its input.
        """
        names = [info.name for info in inputs]
        wanted = f"the network's input{'s are' if len(names) > 1 else ' is'} {one_line(listed(names))}"
        for name in self.arrays:
            if name not in names:
                raise self._error(f"unknown array {one_line(name)!r}: {wanted}")
        for name in names:
            if name not in self.arrays:
                raise self._error(f"no array {one_line(name)!r}: {wanted}")
        pieces = {info.name: self._pieces(info) for info in inputs}
        counts = {name: len(found) for name, found in pieces.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} for {one_line(name)!r}" for name, count in counts.items())
            raise self._error(f"different numbers of samples ({told}): give the same number for each input")
        count = next(iter(counts.values()))
        return [{name: found[index] for name, found in pieces.items()} for index in range(count)]

    def _pieces(self, info: TensorInfo) -> NDArray:
        """One input's samples along a new first axis."""
        array, wanted = self.arrays[info.name], np.dtype(info.dtype)
        at = f"input {one_line(info.name)!r}"
        if not takes(array, wanted):
            raise self._error(f"{at} is {array.dtype}, not {wanted}: convert it as in training")
        shape = info.shape
        if array.shape[1:] == shape and array.ndim == len(shape) + 1:
            pieces = array
        elif shape and array.ndim == len(shape) and array.shape[1:] == shape[1:] and array.shape[0] % shape[0] == 0:
            pieces = array.reshape(array.shape[0] // shape[0], *shape)
        else:
            raise self._error(
                f"{at} has shape {list(array.shape)}: the network takes {list(shape)}, or several of them along the "
                "first axis"
            )
        if not len(pieces):
            raise self._error(f"{at} has no samples: its shape is {list(array.shape)}")
        with np.errstate(over="ignore"):
            pieces = np.ascontiguousarray(pieces, wanted)
        if wanted.kind == "f" and not np.isfinite(pieces).all():
            raise self._error(f"{at} holds NaN or infinite values: look at what made them")
        return pieces

    def _error(self, text: str) -> OptionError:
        return _error(self.name, text)


def samples_to_json(
    given: GivenSamples | None, frames: str | None, used: Sequence[Mapping[str, NDArray]]
) -> dict[str, object] | None:
    """What deploy.json tells of the samples that were run; None where they were random; `frames`: a name of others."""
    if given is not None:
        return given.to_json(len(used))
    if frames is None:
        return None
    together = {f"{index} {name}": array for index, one in enumerate(used) for name, array in one.items()}
    return {"name": frames, "sha256": _digest_of_arrays(together), "used": len(used)}


def read_samples(given: str | Path | Mapping[str, ArrayLike]) -> GivenSamples:
    """Read a file, a folder, or take arrays.

    Raises: OptionError: it is not there, or holds something other than arrays.
    """
    if isinstance(given, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in given.items()}
        return GivenSamples("", _digest_of_arrays(arrays), arrays)
    path = Path(given)
    name = path.name or str(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix == ".npy")
        if not files:
            raise _error(name, "no .npy file in it: give one for each network input, named as the input")
        loaded = {file.stem: _load_array(name, file) for file in files}
        hashes = {file.name: _sha256(name, file) for file in files}
        together = "".join(f"{digest}  {file}\n" for file, digest in hashes.items())
        return GivenSamples(name, hashlib.sha256(together.encode()).hexdigest(), loaded)
    if not path.exists():
        raise OptionError(f"--samples {path}: no such file or folder")
    if path.suffix != ".npz":
        raise _error(name, "neither a .npz file nor a folder of .npy files: write it with numpy.savez")
    return GivenSamples(name, _sha256(name, path), _load_archive(name, path))


def _load_archive(name: str, path: Path) -> dict[str, NDArray]:
    loaded = _load(name, path)
    if not isinstance(loaded, Mapping):
        raise _error(name, "a .npy file under another name: write it with numpy.savez")
    odd = [key for key, value in loaded.items() if not isinstance(value, np.ndarray)]
    if odd:
        raise _error(name, f"{one_line(odd[0])!r} in it is no array: write it with numpy.savez")
    return loaded


def _load_array(name: str, file: Path) -> NDArray:
    loaded = _load(name, file)
    if isinstance(loaded, Mapping):
        raise _error(name, f"{file.name} is a .npz file under another name")
    return loaded


def _load(name: str, file: Path) -> NDArray | dict[str, NDArray]:
    """What numpy reads: an array, or those of an archive."""
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except UNREADABLE as error:
        where = "" if file.name == name else f"{file.name} "
        raise _error(name, f"{where}can't be read: {one_line(error) or type(error).__name__}") from None


def _sha256(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _error(name, f"can't be read: {error.strerror or error}") from None


def _digest_of_arrays(arrays: Mapping[str, NDArray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _error(name: str, text: str) -> OptionError:
    return OptionError(f"--samples {name}: {text}" if name else f"samples: {text}")
