"""Calibrate the bundled recognizers on what they were trained on, and on photographs that they do not know.

`CLONEGUARD_DATA=DIR python -m benchmarks.calibrate_bundles [NAME ...]` rewrites models/bundles/NAME/calibration.npz and writes its report.
Nothing in here is what the tables measure with: not the recognizers' test images, not the 40 unseen classes of Tiny-ImageNet, not the
half of the photographs that atli_sets asks about.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from app.calibrating import calibrate_bundle
from benchmarks import image_sets
from benchmarks.seeds.atli_sets import photographs
from models import datasets
from models.bundle import BUNDLED
from models.folders import write_images
from models.tiny_imagenet import KNOWN, unseen_classes
from models.training import RECIPES, split_holdout

SIZE = 32
INSIDE = 20_000
BENIGN_FPR = 0.009
# five times the default: a false merge costs an honest user something only where the founder was altered, a missed copy helps the thief
FALSE_MERGES = 0.005
# the photographs that each recognizer knows the subjects of are no outliers to it
SUBJECTS = {"cifar10": KNOWN, "gtsrb": frozenset[str]()}
console = Console()


def main() -> None:
    """Calibrate the bundles that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SUBJECTS), metavar="NAME", help=f"of {', '.join(SUBJECTS)}; default: all")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="directory of the HTML reports")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.names) - SUBJECTS.keys():
        parser.error(f"no bundled recognizer {', '.join(sorted(unknown))}")
    for name in options.names:
        measured = calibrate(name, Path(os.environ["CLONEGUARD_DATA"]), report=options.reports / f"{name}.html", seed=options.seed)
        console.print(name, measured)


def calibrate(name: str, data: Path, *, report: Path, seed: int) -> dict[str, object]:
    """Calibrate one bundle; returns what was measured."""
    random = np.random.default_rng(seed)
    recipe = RECIPES[name]
    fitting, holdout = split_holdout(datasets.load(name, data, "train", size=SIZE, tracks=recipe.tracks), recipe)
    names = image_sets.tiny_imagenet_classes(data)
    learned = sorted(set(names) - set(unseen_classes(names)) - SUBJECTS[name])
    with tempfile.TemporaryDirectory() as folder:
        inside, held_out, outside = (Path(folder) / part for part in ("inside", "held_out", "outside"))
        write_images(inside, fitting.images[random.permutation(len(fitting.images))[:INSIDE]])
        write_images(held_out, holdout.images)
        write_images(outside / "tiny", image_sets.tiny_imagenet(data, learned, INSIDE, random, quality=None))
        write_images(outside / "crops", photographs(name, data, random, size=SIZE)[0])
        report.parent.mkdir(parents=True, exist_ok=True)
        return calibrate_bundle(
            BUNDLED / name,
            inside=inside, held_out=held_out, outside=outside, benign_fpr=BENIGN_FPR,
            false_merges=FALSE_MERGES, most=2 * INSIDE, seed=seed, report=report,
        )  # fmt: skip


if __name__ == "__main__":
    main()
