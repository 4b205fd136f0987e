"""`python -m models.train_backbone --data DIR`: train the backbone on Tiny-ImageNet and write models/backbones/photographs.onnx."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from models import backbone_training, datasets
from models.backbone import Backbone
from models.backbone_files import BUILTIN
from models.backbone_training import Recipe
from models.code_training import CodeRecipe, fit_code
from models.export import export_backbone
from models.tiny_imagenet import unseen_classes

SIZE = 32
console = Console()


def train(
    data: Annotated[Path, typer.Option(help="Directory that holds tiny-imagenet-32/train/WNID/*.jpg.")],
    checkpoints: Annotated[Path, typer.Option(help="Where an interrupted run goes on from.")] = Path("checkpoints/backbone"),
    out: Annotated[Path, typer.Option(help="ONNX file to write.")] = BUILTIN,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights, the order and the augmentation.")] = 0,
) -> None:
    """Learn from all classes but the 40 that the tables call unseen."""
    torch.manual_seed(seed)
    images = datasets.load("tiny-imagenet-32", data, "train", size=SIZE)
    unseen = {images.names.index(name) for name in unseen_classes(list(images.names))}
    learned = images.subset(np.flatnonzero(~np.isin(images.classes, sorted(unseen))))
    network, history = backbone_training.fit(learned, Recipe(seed=seed), checkpoints)
    classes = np.unique(learned.classes, return_inverse=True)[1]
    code = fit_code(network, learned.images, classes, CodeRecipe(seed=seed), checkpoints / "code")
    write(network, out, seed=seed, epochs=history, code=code)


def write(network: Backbone, out: Path, *, seed: int, **measured: object) -> None:
    """The ONNX file, and beside it a page that says how it was made and what was measured on the way."""
    out.parent.mkdir(parents=True, exist_ok=True)
    export_backbone(network, out)
    page = {
        "images": "tiny-imagenet-32, all classes but models.tiny_imagenet.unseen_classes",
        "parameters": sum(p.numel() for p in network.parameters()),
        "command": f"python -m models.train_backbone --data DIR --seed {seed}",
        "recipe": asdict(Recipe(seed=seed)),
        "code_recipe": asdict(CodeRecipe(seed=seed)),
        "torch": torch.__version__,
        **measured,
    }
    out.with_suffix(".json").write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")
    console.print(f"{out}: {page}")


if __name__ == "__main__":
    typer.run(train)
