"""Measure what the bundled CIFAR-10 recognizer's filter and fingerprints see, on real images that they never learned from.

`CLONEGUARD_DATA=DIR python -m benchmarks.eyes` prints and writes the tables; with `--calibrate HOLDOUT` it first calibrates the bundle
on CIFAR-10's training images, HOLDOUT (the images that `models.train` kept out of training) and 133 classes of Tiny-ImageNet.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from app.calibrating import calibrate_bundle
from benchmarks.recipe import recipe
from benchmarks.tiny_imagenet import KNOWN, link_classes, split_classes
from defenses.calibration import Calibration
from defenses.copies import TRANSFORMS, copies_by, recompress
from defenses.fingerprint import hamming, perceptual_hashes
from models import bundle as bundles
from models import manifest as manifests
from models.bundle import BUNDLED, Bundle
from models.folders import image_files, read_images
from models.manifest import InputSpec
from models.packaging import top1
from models.preprocess import fit

RATES = (0.05, 0.02, 0.0125, 0.01)
STORED, ASKED = 10_000, 2_000
PERCEPTUAL_RADIUS = 4
DIRECTORY = BUNDLED / "cifar10"
console = Console()


def main() -> None:
    """Run everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", type=Path, metavar="HOLDOUT", help="calibrate the bundle first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "eyes.json")
    options = parser.parse_args()
    data = Path(os.environ["CLONEGUARD_DATA"])
    how = recipe() | {"seed": options.seed, "command": "python -m benchmarks.eyes"}
    tiny = data / "tiny-imagenet-32" / "train"
    learned, unseen = split_classes([path.name for path in tiny.iterdir() if path.is_dir()], seed=options.seed)
    if options.calibrate:
        with tempfile.TemporaryDirectory() as folder:
            outliers = link_classes(tiny, learned, Path(folder) / "outliers")
            calibrate_bundle(
                DIRECTORY, images=data / "cifar10" / "train", held_out=options.calibrate, outliers=outliers, most=10_000, seed=options.seed
            )
    bundle = bundles.load(DIRECTORY, device="cpu", threads=os.cpu_count() or 1)
    random = np.random.default_rng(options.seed)
    result = how | {
        "bundle": bundle.model,
        "precision": bundle.precision,
        "accuracy": _accuracy(data / "cifar10" / "test"),
        "flagged": _flagged(bundle, data, tiny, unseen, random),
        "near_duplicates": _near_duplicates(bundle, data, random),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _accuracy(test: Path) -> dict[str, float]:
    files = image_files(test)
    names = sorted(path.name for path in test.iterdir() if path.is_dir())
    pixels, classes = _pixels(files), np.array([names.index(path.parent.name) for path in files])
    manifest = manifests.load(DIRECTORY)
    found: dict[str, float] = {precision: top1(DIRECTORY / file, pixels, classes) for precision, file in manifest.models.items()}
    console.print("CIFAR-10 (JPEG) test top-1: " + ", ".join(f"{precision} {share:.2%}" for precision, share in found.items()))
    return found


def _flagged(bundle: Bundle, data: Path, tiny: Path, unseen: list[str], random: np.random.Generator) -> dict[str, dict[str, float]]:
    """Share of each set flagged at thresholds of stated benign false-positive rates."""
    calibration = Calibration.load(DIRECTORY / "calibration.npz")
    name, scorer = calibration.scorer()
    test = _pixels(image_files(data / "cifar10" / "test"))
    recompressed = np.stack([np.asarray(recompress(Image.fromarray(image), 60)) for image in test[::4]])
    photos = image_files(data / "photos")
    sets = {
        "CIFAR-10 test (benign)": test,
        "CIFAR-10 test, recompressed at quality 60 (benign)": recompressed,
        f"Tiny-ImageNet, {len(unseen)} unseen classes": _sample(tiny, unseen, 4_000, random),
        "Tiny-ImageNet, classes that CIFAR-10 knows": _sample(tiny, sorted(KNOWN), 4_000, random),
        f"{len(photos)} photographs, whole": _pixels(photos),
        f"{2 * len(photos)} crops of them": _crops(photos, random),
    }
    table = Table("share flagged", *(f"at {100 * rate:g}%" for rate in RATES), title=f"{name} filter, benign false-positive rate")
    found: dict[str, dict[str, float]] = {}
    for title, pixels in sets.items():
        outputs = bundle.infer_all(pixels)
        scores = scorer(logits=outputs.logits, features=outputs.features)
        found[title] = {str(rate): round(float((scores > calibration.threshold(name, rate)).mean()), 4) for rate in RATES}
        table.add_row(title, *(f"{share:.1%}" for share in found[title].values()))
    console.print(table)
    return found


def _near_duplicates(bundle: Bundle, data: Path, random: np.random.Generator) -> dict[str, Any]:
    """Recall per transform, and false merges of test images among stored training images."""
    calibration = Calibration.load(DIRECTORY / "calibration.npz")
    code = calibration.code
    assert code is not None

    def fingerprints(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return perceptual_hashes(pixels), code(bundle.infer_all(pixels).embedding)

    train = image_files(data / "cifar10" / "train")
    stored = fingerprints(_pixels([train[i] for i in random.permutation(len(train))[:STORED]]))
    test = image_files(data / "cifar10" / "test")
    asked = _pixels([test[i] for i in random.permutation(len(test))[:ASKED]])
    original = fingerprints(asked)
    radii = (PERCEPTUAL_RADIUS, code.radius)
    merged = np.zeros(ASKED, dtype=bool)
    for mine, theirs, radius in zip(original, stored, radii, strict=True):
        merged |= np.concatenate([(hamming(mine[i : i + 250], theirs) <= radius).any(axis=1) for i in range(0, ASKED, 250)])
    table = Table("transform", "perceptual", "embedding", "either", title=f"near-duplicates found, radii {radii[0]} and {radii[1]} bits")
    recall: dict[str, list[float]] = {}
    for transform in TRANSFORMS:
        copies = fingerprints(copies_by(transform, asked, random))
        near = [
            np.unpackbits(mine ^ copy, axis=1).sum(axis=1) <= radius for mine, copy, radius in zip(original, copies, radii, strict=True)
        ]
        recall[transform] = [round(float(hit.mean()), 4) for hit in (near[0], near[1], near[0] | near[1])]
        table.add_row(transform, *(f"{share:.1%}" for share in recall[transform]))
    console.print(table)
    console.print(f"merged with one of {STORED} stored training images (true duplicates included): {merged.mean():.2%} of {ASKED}")
    return {"radii": radii, "recall": recall, "merged_with_stored": round(float(merged.mean()), 5), "stored": STORED, "asked": ASKED}


def _pixels(files: list[Path]) -> NDArray[np.uint8]:
    return read_images(files, InputSpec(size=32))


def _sample(tiny: Path, classes: list[str], most: int, random: np.random.Generator) -> NDArray[np.uint8]:
    files = [path for name in classes if (tiny / name).is_dir() for path in image_files(tiny / name)]
    return _pixels([files[i] for i in random.permutation(len(files))[:most]])


def _crops(files: list[Path], random: np.random.Generator) -> NDArray[np.uint8]:
    """Two random squares of each photograph, of half to all of its shorter side."""
    crops = []
    for path in files * 2:
        with Image.open(path) as image:
            side = int(min(image.size) * random.uniform(0.5, 1))
            left, top = (int(random.integers(0, length - side + 1)) for length in image.size)
            crops.append(fit(image.convert("RGB").crop((left, top, left + side, top + side)), InputSpec(size=32)))
    return np.stack(crops)


if __name__ == "__main__":
    main()
