"""Files of weights: what train.py and qat_retrain.py save, and what training may start from."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import click
import networks
from framework import h5py, keras


def load_weights(network: keras.Model, name: str, source: str) -> None:
    """Load weights by the layers' names; a last layer of another number of classes keeps its random start.

    Args:
        network: receives the weights.
        name: of the network.
        source: a .h5 file (a model of train.py, or weights as keras.applications ships them), or `imagenet`.
    Raises: click.UsageError: the file is missing or belongs to another network, or there is nothing to download.
    """
    try:
        if source != "imagenet":
            _load(network, name, Path(source))
            return
        given = networks.imagenet(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "imagenet.h5")
            given.save_weights(path)
            _load(network, name, path)
    except KeyError as error:
        raise click.UsageError(f"--weights imagenet: Keras has none for {name}") from error
    except Exception as error:  # Keras raises a bare one where it can't download
        raise click.UsageError(f"--weights {source}: {str(error).splitlines()[0]}") from error


def _load(network: keras.Model, name: str, path: Path) -> None:
    """Raises ValueError or OSError where the file is not one of `name`."""
    if not path.is_file():
        raise FileNotFoundError("no such file")
    with h5py.File(path) as file:
        names = file.get("model_weights", file).attrs.get("layer_names", ())
        held = {one.decode() if isinstance(one, bytes) else one for one in names}
    lost = [layer.name for layer in network.layers[:-1] if layer.weights and layer.name not in held]
    if lost:
        raise ValueError(f"not weights of {name}, {lost[0]} and others are missing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the last layer
        network.load_weights(path, by_name=True, skip_mismatch=True)


def save(network: keras.Model, path: Path, *, data: str, accuracy: float) -> None:
    """Save a whole model, with the data set it saw as an attribute, which Keras's own loader ignores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras would rather have its newer format
        network.save(path, include_optimizer=False)
    with h5py.File(path, "a") as file:
        file.attrs["sample_data"], file.attrs["sample_accuracy"] = data, accuracy


def open_model(path: Path) -> tuple[keras.Model, str | None]:
    """A saved float model, and the data set it saw; None for a model that `save` did not write.

    Raises: click.UsageError: the file can't be read.
    """
    try:
        model = keras.models.load_model(path, compile=False)
        with h5py.File(path) as file:
            return model, file.attrs.get("sample_data")
    except (OSError, ValueError, TypeError) as error:
        raise click.UsageError(f"{path}: {str(error).splitlines()[0]}") from error
