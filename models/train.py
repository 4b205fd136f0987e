"""`python -m models.train cifar10 --data DIR`: train a recognizer and write its bundle."""

import platform
import subprocess
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from models import datasets
from models.backbone_files import choose
from models.export import export
from models.heads import Heads
from models.manifest import InputSpec, Manifest, digest
from models.packaging import backbone_recipe, cpu_precision, measure_speed, save_models, top1
from models.quantize import quantize
from models.training import RECIPES, Recipe, fit, split_holdout

SIZE = 32
console = Console()


def train(
    name: Annotated[str, typer.Argument(help="Image set: NAME/{train,test}/CLASS/*.jpg under --data, or a torchvision name.")],
    data: Annotated[Path, typer.Option(help="Directory of the image sets.")],
    out: Annotated[Path | None, typer.Option(help="Bundle directory to write; default models/bundles/NAME.")] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="Where an interrupted run goes on from; default checkpoints/NAME.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights, the split and the augmentation.")] = 0,
    version: Annotated[str, typer.Option(help="Version that the bundle states.")] = "1.0.0",
) -> None:
    """Train on the set's train split, choose the epoch on a part of it, and measure on the test split once, at the end.

    With the checkpoints of a finished run, the bundle is made again without training. It gets the built-in backbone.
    """
    backbone = choose("builtin")  # first: a missing one must not cost an hour
    torch.manual_seed(seed)
    recipe = replace(RECIPES.get(name, Recipe()), seed=seed)
    directory = out or Path(__file__).parent / "bundles" / name
    directory.mkdir(parents=True, exist_ok=True)
    kept = checkpoints or Path("checkpoints") / name
    images = datasets.load(name, data, "train", size=SIZE, tracks=recipe.tracks)
    network, history = fit(images, recipe, kept)
    fitting, holdout = split_holdout(images, recipe)

    with tempfile.TemporaryDirectory() as folder:
        export(Heads(network), Path(folder) / "classifier.onnx", size=SIZE)
        classifier = onnx.load(Path(folder) / "classifier.onnx")
    calibration = calibration_images(fitting.images, seed)
    classifiers = {"fp32": classifier, "int8": quantize(classifier, [calibration])}
    models = save_models(directory, classifiers, backbone, size=SIZE, calibration=calibration, halve=True)
    test = datasets.load(name, data, "test", size=SIZE)
    accuracy = {precision: top1(directory / file, test.images, test.classes) for precision, file in models.items()}
    speeds = measure_speed(directory, models)
    best = max(history, key=lambda row: row["holdout_accuracy"])
    Manifest(
        name=name,
        version=version,
        labels=images.names,
        input=InputSpec(size=SIZE),
        models=models,
        default_precision={"cpu": cpu_precision(accuracy, speeds), "cuda": "fp32"},
        files={file: digest(directory / file) for file in models.values()},
        recipe={
            "command": f"python -m models.train {name} --data DIR --seed {seed}",
            "architecture": type(network).__name__,
            "parameters": sum(p.numel() for p in network.parameters()),
            **asdict(recipe),
            "backbone": backbone_recipe(backbone),
            "chosen_epoch": best["epoch"],
            "training_images": len(fitting.images),
            "holdout_images": len(holdout.images),
            "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads" + (", CUDA" if torch.cuda.is_available() else ""),
            "torch": torch.__version__,
            "commit": _commit(),
        },
        measured={
            "holdout_top1": best["holdout_accuracy"],
            "test_top1": accuracy,
            "test_images": len(test.images),
            "images_per_second": speeds,
        },
    ).save(directory)
    console.print(f"{directory}: test top-1 {accuracy}; calibrate it next: docs/calibration.md")


def calibration_images(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The 1,024 training images, or all where there are fewer, that int8 ranges are taken from."""
    return images[np.random.default_rng(seed).permutation(len(images))[:1024]]


def _commit() -> str:
    try:
        described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


if __name__ == "__main__":
    typer.run(train)
