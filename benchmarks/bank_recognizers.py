"""Recognizers of the CIFAR-10 task that know nothing of each other: what clone detection must not call clones.

Four architectures, three seeds each, every one trained on a random half of its own of the training images. A training is kept an epoch at a
time, and an interrupted one goes on. To be stolen over HTTP, a recognizer becomes a bundle.
"""

import asyncio
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax  # type: ignore[import-untyped]  # ships no types

from attacker_client import students
from attacker_client.export import export
from attacker_client.recipes import RECIPES
from attacker_client.students import Student
from attacker_client.training import StudentTrainer
from attacker_client.transfer_set import TransferSet
from defenses.clone_detection.recognizer import Answers, Inputs
from models import datasets
from models.bundle import Bundle
from models.manifest import FILE
from models.packaging import make_bundle

TASK, SIZE = "cifar10", 32
BATCH = 128
ARCHITECTURES = ("small", "lenet", "vgg8", "patch-resnet")
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Independent:
    """How a recognizer is made: everything that decides the outcome."""

    architecture: str
    seed: int
    recipe: str = "fast"
    epochs: int = 8
    share: float = 0.5  # of the training images, drawn by the seed

    @property
    def name(self) -> str:
        """Names its file and its rows of the bank."""
        return f"{self.architecture}-{self.seed}"


INDEPENDENTS = tuple(Independent(architecture, seed) for seed in SEEDS for architecture in ARCHITECTURES)


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A trained network as clone detection asks it: images uint8 (n, 32, 32, 3) to labels and the best class's probability."""

    student: Student

    def __call__(self, inputs: Inputs) -> Answers:
        """Answer a batch."""
        probabilities = self.student.probabilities(inputs)
        return Answers(probabilities.argmax(axis=1), probabilities.max(axis=1).clip(0, 1).astype(np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A bundle as clone detection asks it."""

    bundle: Bundle

    def __call__(self, inputs: Inputs) -> Answers:
        """Answer a batch."""
        probabilities = softmax(
            np.concatenate([self.bundle.logits(inputs[at : at + BATCH]) for at in range(0, len(inputs), BATCH)]), axis=1
        )
        return Answers(probabilities.argmax(axis=1), probabilities.max(axis=1).clip(0, 1).astype(np.float64))


def trained(one: Independent, *, data: Path, out: Path) -> Student:
    """Train a recognizer, or go on with it, or read it; its accuracy on the test images is kept beside it."""
    folder = out / "independents" / one.name
    kept = folder / "student.pt"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, classes = images_of(data, "train")
        random = np.random.default_rng((one.seed, ARCHITECTURES.index(one.architecture)))
        rows = np.sort(random.permutation(len(images))[: round(one.share * len(images))])
        trainer = StudentTrainer(
            one.architecture, RECIPES[one.recipe], size=SIZE, checkpoints=folder / "checkpoints", seed=one.seed, hard=True,
            epochs=one.epochs, on_epoch=lambda row: print(json.dumps({"recognizer": one.name, **row}), flush=True),
        )  # fmt: skip
        student = asyncio.run(trainer.fit(labelled(images[rows], classes[rows])))
        test, told = images_of(data, "test")
        accuracy = float((student.probabilities(test).argmax(axis=1) == told).mean())
        (folder / "recipe.json").write_text(json.dumps(asdict(one) | {"accuracy": accuracy}) + "\n", encoding="utf-8")
        students.save(student.cpu(), kept)
    return students.load(kept)


def bundled(one: Independent, *, data: Path, out: Path) -> Path:
    """The recognizer as a bundle's directory, made once."""
    directory = out / "bundles" / one.name
    if not (directory / FILE).exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        path = directory.with_suffix(".onnx")
        export(trained(one, data=data, out=out), path)
        labels = sorted(entry.name for entry in (data / TASK / "train").iterdir() if entry.is_dir())
        make_bundle(path, directory, name=one.name, version="1", labels=labels, size=SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    return directory


def labelled(images: NDArray[np.uint8], classes: NDArray[np.int64]) -> TransferSet:
    """Images with their true classes, as a student learns from."""
    nothing = np.full((len(images), int(classes.max()) + 1), np.nan, np.float32)
    return TransferSet(images, classes, nothing, np.ones(len(images), np.float32))


@cache
def images_of(data: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """CIFAR-10's images and classes; a class's number is its place among the sorted names, as in every bundle of the task."""
    found = datasets.load(TASK, data, split, size=SIZE)
    return found.images, found.classes
