"""Measure the near-duplicate stage, and attack it by voting and by poisoning (Kinbara et al., PRMU2019-94).

`CLONEGUARD_DATA=DIR python -m benchmarks.seeds.kinbara` prints and writes: for every bundled recognizer, the share of copies recognised
and of distinct images merged; for the CIFAR-10 recognizer, the voting and the poisoning attack on CIFAR-10's test images. The paper's
own figures are not public; the arithmetic of its attack is: altered independently at rate 0.1, a majority of 1, 3, 5 and 7 is wrong with
probability 0.1, 0.028, 0.0086 and 0.0027, and with a perfect countermeasure 0.1 for every n.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.image_sets import cifar10, tiny_imagenet, tiny_imagenet_classes
from benchmarks.recipe import recipe
from benchmarks.seeds import kinbara_tables as tables
from benchmarks.seeds.fingerprints import Eyes
from benchmarks.seeds.merged_pairs import listed, sheet
from benchmarks.seeds.near_duplicate_recall import copies, merges, recall
from benchmarks.seeds.poisoning import Targets, poisoning
from benchmarks.seeds.scenes import Size, scenes
from benchmarks.seeds.voting import voting
from models import bundle as bundles
from models.bundle import BUNDLED
from models.tiny_imagenet import unseen_classes

ATTACKED = "cifar10"
console = Console()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables, write the JSON."""
    options = parsed(arguments)
    data = Path(os.environ["CLONEGUARD_DATA"])
    result: dict[str, Any] = recipe() | {"command": "python -m benchmarks.seeds.kinbara", "seed": options.seed, "quick": options.quick}
    names = [options.bundle] if options.bundle else sorted(path.parent.name for path in BUNDLED.glob("*/calibration.npz"))
    loaded = {name: bundles.load(name, device=options.device, threads=os.cpu_count() or 1) for name in names}
    eyes = {name: Eyes.of(bundle) for name, bundle in loaded.items()}
    result["recognizers"] = {
        name: {"model": bundle.model, "precision": bundle.precision, "radii": eyes[name].radii, "bits": eyes[name].code.bits}
        for name, bundle in loaded.items()
    }
    result["tables"] = detection(eyes, data, options)
    if ATTACKED in eyes:
        result |= attacks(eyes[ATTACKED], data, options)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="one bundle, by name or directory, instead of all that are bundled and calibrated")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the images: to see that it works, not to quote")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="write contact sheets of merged pairs here, to look at them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "kinbara.json")
    return parser.parse_args(arguments)


def detection(eyes: dict[str, Eyes], data: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Recall and merges of every recognizer on every set; a set is read, and its copies are made, once for all recognizers."""
    size = Size(asked=200, stored=1_000, copied=40) if options.quick else Size()
    found: dict[str, dict[str, Any]] = {name: {} for name in eyes}
    for title, scene_of in scenes(data, size, seed=options.seed).items():
        scene = scene_of()
        pairs = copies(scene.asked.pixels[: size.copied], np.random.default_rng(options.seed))
        for name, sight in eyes.items():
            with console.status(f"{name}: {title}"):
                figures, merged = merges(sight, scene)
                met = listed(scene, merged)
                found[name][title] = {"recall": recall(sight, pairs), "merges": figures, "pairs": met}
            if options.pairs:
                sheet(scene, met, options.pairs / f"{name}-{title.replace(' ', '-').replace(chr(39), '')}.png")
    for name in eyes:
        tables.show_recall(console, name, found[name])
        tables.show_merges(console, name, found[name])
    return found


def attacks(eyes: Eyes, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Voting and poisoning, both on CIFAR-10's test images; what a poisoner blends in are Tiny-ImageNet's unseen classes."""
    random = np.random.default_rng(options.seed)
    victims, targets, keys = (40, 40, 2) if options.quick else (1_000, 500, 4)
    images = cifar10(data, "test", victims + targets, random)
    foreign = tiny_imagenet(data, unseen_classes(tiny_imagenet_classes(data)), targets, random)
    votes = asyncio.run(voting(eyes, images[:victims], random, keys=keys))
    tables.show_voting(console, votes)
    poisoned = asyncio.run(poisoning(Targets(eyes, images[victims:], foreign, random), keys=keys))
    tables.show_poisoning(console, poisoned)
    return {"voting": votes, "poisoning": poisoned, "keys": keys}


if __name__ == "__main__":
    main()
