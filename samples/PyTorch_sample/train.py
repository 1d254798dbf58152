"""Step 1 of 3: train a float32 network.

    python3 train.py -lr 0.001 --max_epochs 50

Writes pretrained_MODEL.pth and pretrained_MODEL.onnx. Training stops earlier once the validation accuracy is reached
(--target) or no longer grows (--patience). Step 2 is qat_retrain.py.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import click
import networks
import torch
from datasets import DEFAULT, open_data
from torch import nn
from training import Schedule, console, device_of, evaluate, fit, seed_everything

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common.options import CONTEXT, GRAY_NETWORKS, batch_size_option, output_option, run_options, training_options


@click.command(context_settings=CONTEXT)
@training_options(0.001, 50, networks.NAMES)
@click.option("--data", default=DEFAULT, show_default=True, help="mnist5k, or mnist|cifar10|food101|imagefolder:DIR.")
@click.option("--weights", help="Start from this checkpoint, or from `imagenet` (torchvision's, downloaded).")
@click.option(
    "--decay",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Of the learning rate, each epoch.",
)
@batch_size_option()
@click.option("--patience", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--target", type=click.FloatRange(0, 1), default=0.99, show_default=True)
@run_options("cuda", "Processes")
@output_option()
def main(
    learning_rate: float,
    max_epochs: int,
    model: str,
    data: str,
    weights: str | None,
    decay: float,
    batch_size: int,
    patience: int,
    target: float,
    seed: int,
    device: str,
    workers: int,
    resume: bool,
    output_dir: Path,
) -> None:
    """Train a float32 network; step 1 of 3.

    On the digits, an epoch takes two CPU cores half a minute with resnet50, 10 s with resnet18 and mobilenet_v2, 2 s or
    less with small_cnn and mnist_mlp. Training ends at --target, or --patience epochs after the best one: 10 to 20
    epochs for most.
    """
    seed_everything(seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    sets = open_data(data, gray=model in GRAY_NETWORKS)
    network = networks.build(model, sets.classes)
    if weights is not None:
        load_weights(network, model, weights)
    network.to(device_of(device))
    stem = output_dir / f"pretrained_{model}"
    schedule = Schedule(learning_rate, decay, max_epochs, batch_size, patience, target, workers)
    fit(network, sets, schedule, Path(f"{stem}.resume.pth"), resume=resume)
    accuracy = evaluate(network, sets.test)
    console.print(f"{model} on {data}: {accuracy:.2%} of {len(sets.test)} test images")
    network.cpu()
    torch.save(
        {
            "model": model,
            "data": data,
            "classes": sets.classes,
            "state_dict": network.state_dict(),
            "accuracy": accuracy,
        },
        f"{stem}.pth",
    )
    write_onnx(network, sets.shape, Path(f"{stem}.onnx"))
    console.print(f"wrote {stem}.pth and {stem}.onnx; next: qat_retrain.py --model {model}", soft_wrap=True)


def load_weights(network: nn.Module, name: str, source: str) -> None:
    """Load a checkpoint; what does not fit the number of classes keeps its random start.

    Args:
        network: receives the weights.
        name: of the network.
        source: a .pth file (a state dict, or a checkpoint of train.py), or `imagenet`.
    Raises: click.UsageError: the file is missing or belongs to another network, or torchvision is not installed.
    """
    if source == "imagenet":
        try:
            from torchvision import models

            state = models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
        except (ImportError, RuntimeError, ValueError, OSError) as error:
            raise click.UsageError(f"--weights imagenet: {networks.torchvision_reason(error)}") from error
    else:
        if not Path(source).is_file():
            raise click.UsageError(f"--weights {source}: no such file")
        state = torch.load(source, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    left = [key for key in own if key not in fitting]
    if len(left) > 2:  # the last layer's weight and bias may differ, the rest must not
        raise click.UsageError(f"--weights {source}: not a checkpoint of {name}, {left[0]} and others are missing")
    network.load_state_dict({**own, **fitting})
    if left:
        console.print(f"--weights {source}: another number of classes, {', '.join(left)} start at random")


def write_onnx(network: nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Export the float network for a batch of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, *shape),),
            str(path),
            dynamo=False,
            opset_version=13,
            input_names=["input"],
            output_names=["output"],
        )


if __name__ == "__main__":
    main()
