"""`python -m models.add_backbone cifar10 --data DIR`: put a backbone beside the classifier of a bundle, without training."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from rich.console import Console

from models import bundle, datasets
from models.backbone_files import BackboneFile, choose
from models.beside import is_merged, without_backbone
from models.manifest import BundleError, Manifest, digest, verify
from models.packaging import backbone_recipe, cpu_precision, measure_speed, save_models, top1
from models.train import calibration_images
from models.training import RECIPES, Recipe, split_holdout

CALIBRATION = "calibration.npz"


def main(
    name: Annotated[str, typer.Argument(help="Name or directory of the bundle; it is rewritten in place, uncalibrated.")],
    data: Annotated[Path, typer.Option(help="Directory of the image sets; the bundle's own name is the set's.")],
    backbone: Annotated[str, typer.Option(help="builtin, torchvision:NAME, or an ONNX file.")] = "builtin",
    version: Annotated[str, typer.Option(help="Version that the bundle states from now on: its features are others.")] = "1.1.0",
    seed: Annotated[int, typer.Option(help="Seed that the classifier was trained with: int8 is calibrated on images it learned from.")] = 0,
) -> None:
    """Add a backbone to a bundle, or replace the one that it has."""
    directory = bundle.locate(name)
    extra = choose(backbone)
    if extra is None:
        raise BundleError("there is no backbone to add: give --backbone builtin, torchvision:NAME, or an ONNX file")
    stated = verify(directory)
    recipe = replace(RECIPES.get(stated.name, Recipe()), seed=seed)
    train = datasets.load(stated.name, data, "train", size=stated.input.size, tracks=recipe.tracks)
    test = datasets.load(stated.name, data, "test", size=stated.input.size)
    calibration = calibration_images(split_holdout(train, recipe)[0].images, seed)
    manifest = add_backbone(directory, extra, calibration=calibration, test=(test.images, test.classes), version=version)
    Console().print(f"{directory}: {manifest.name} {manifest.version}, test top-1 {manifest.measured['test_top1']}; calibrate it again")


def add_backbone(
    directory: Path,
    backbone: BackboneFile,
    *,
    calibration: NDArray[np.uint8],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    version: str,
) -> Manifest:
    """Rewrite a bundle's graphs with the backbone beside the classifier, measure them on test images and classes, return the new manifest.

    The int8 classifier is not quantised again, so its logits stay exactly what they were; fp32 ones move by the rounding of the weights to
    float16. `calibration` (n, size, size, 3) gives the backbone's int8 ranges. The bundle's calibration is removed: it is one of other
    features. Interrupted in between, the bundle does not verify.
    """
    manifest = verify(directory)
    classifiers: dict[str, onnx.ModelProto] = {}
    for precision, file in manifest.models.items():
        model = onnx.load(directory / file)
        classifiers[precision] = without_backbone(model) if is_merged(model) else model
    models = save_models(directory, classifiers, backbone, size=manifest.input.size, calibration=calibration, halve=True)
    accuracy = {precision: top1(directory / file, *test) for precision, file in models.items()}
    speeds = measure_speed(directory, models)
    measured = {name: value for name, value in manifest.measured.items() if name != "calibration"}
    manifest = manifest.model_copy(
        update={
            "version": version,
            "models": models,
            "default_precision": {"cpu": cpu_precision(accuracy, speeds), "cuda": "fp32"},
            "files": {file: digest(directory / file) for file in models.values()},
            "recipe": {**manifest.recipe, "backbone": backbone_recipe(backbone)},
            "measured": {**measured, "test_top1": accuracy, "test_images": len(test[0]), "images_per_second": speeds},
        }
    )
    manifest.save(directory)
    (directory / CALIBRATION).unlink(missing_ok=True)
    return manifest


if __name__ == "__main__":
    typer.run(main)
