"""Reproduce Table 4 of Atli et al. (2020), the filter in front of the API: `CLONEGUARD_DATA=DIR python -m benchmarks.seeds.atli_filter`.

A logistic regression on the recognizer's features tells its own images from foreign ones; its rivals score without foreign images, and
ODIN with gradients. Every image goes through the same decoder, resize and codec; the last table re-encodes the test images in other ways.
Filters learn from the recognizer's training images and from foreign ones (`sources` in the JSON), never from what they are asked about.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.image_sets import QUALITY, Pixels
from benchmarks.recipe import recipe
from benchmarks.seeds import atli_tables
from benchmarks.seeds.atli_sets import OVERLAP, TITLES, UNSEEN, WITH, WITHOUT, Sets, Sizes, encoded, load, to_learn_from
from benchmarks.seeds.filter_metrics import Curve, Scores, auroc, curve, figures
from benchmarks.seeds.odin import Odin
from defenses.calibration import Calibration
from defenses.out_of_distribution.scorers import SCORERS, Outputs
from models import bundle as bundles
from models.bundle import BUNDLED, Bundle

SHIPPED = "filter as shipped"  # whatever the bundle's calibration.npz holds
FILTERS = (WITH, WITHOUT, SHIPPED)
BENIGN = "benign"
EVEN_ODDS = 0.0  # where a filter itself would draw the line: the paper states no other threshold
CODECS: Mapping[str, int | None] = {"JPEG 90": 90, "JPEG 75": 75, "JPEG 60": 60, "PNG": None}
QUICK = Sizes(learned=1_000, queries=400, benign=1_000, codec=400)

Curves = Mapping[str, Curve]
console = Console(width=None if sys.stdout.isatty() else 160)  # in a file the tables don't fit rich's 80 columns


def main() -> None:
    """Run everything, print the tables, draw the plot, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name in TITLES if (BUNDLED / name / "bundle.json").is_file()]
    parser.add_argument("--bundles", nargs="+", default=there, metavar="NAME|DIR", help="bundles named cifar10 and gtsrb")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, written to the temporary folder: not to publish")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the JSON; default: benchmarks/results/atli_filter.json")
    parser.add_argument("--plot", type=Path, help="the ROC curves; default: docs/images/atli_filter.png")
    options = parser.parse_args()
    house, scratch = Path(__file__).parents[2], Path(tempfile.gettempdir())
    out = options.out or (scratch if options.quick else house / "benchmarks" / "results") / "atli_filter.json"
    picture = options.plot or (scratch if options.quick else house / "docs" / "images") / "atli_filter.png"
    result: dict[str, Any] = {"recipe": recipe() | {"command": "python -m benchmarks.seeds.atli_filter", "seed": options.seed}}
    result["recipe"]["versions"] |= {name: version(name) for name in ("scikit-learn", "torch")}
    result["recipe"] |= {"quick": options.quick, "common_encoding": f"JPEG {QUALITY}", "paper": atli_tables.PAPER}
    curves: dict[str, Curves] = {}
    result["recognizers"] = {}
    for given in options.bundles:
        start = time.monotonic()
        bundle = bundles.load(given, device="cpu", threads=os.cpu_count() or 1)
        name, sizes = bundle.manifest.name, QUICK if options.quick else Sizes()
        random = np.random.default_rng(options.seed)
        sets = load(name, Path(os.environ["CLONEGUARD_DATA"]), sizes, random, size=bundle.manifest.input.size)
        result["recognizers"][name], curves[name] = measure(bundle, sets, codec=sizes.codec, seed=options.seed)
        console.print(f"{bundle.model}: {time.monotonic() - start:.0f} s")
    atli_tables.show(result["recognizers"], console)
    atli_tables.plot(curves).savefig(picture, dpi=110)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {out} and {picture}")


def measure(bundle: Bundle, sets: Sets, *, codec: int, seed: int) -> tuple[dict[str, Any], Curves]:
    """Fit everything and ask it about everything; the figures as plain values, and the ROC curves on the unseen classes."""
    random = np.random.default_rng(seed)
    scorers = fit(bundle, sets, random)
    images = {name: encoded(pixels, QUALITY) for name, pixels in {BENIGN: sets.benign, **sets.queries}.items()}
    scores = score(bundle, scorers, images)
    benign = {name: own.pop(BENIGN) for name, own in scores.items()}
    tnr = float((benign[WITH] <= EVEN_ODDS).mean())
    found = {
        name: {
            query: figures(benign[name], foreign, filter_tnr=tnr, natural=EVEN_ODDS if name in FILTERS else None, seed=seed).to_json()
            for query, foreign in own.items()
        }
        for name, own in scores.items()
    }
    page: dict[str, Any] = {
        "bundle": bundle.model,
        "precision": bundle.precision,
        "sources": dict(sets.sources) | ({SHIPPED: "see benchmarks/calibrate_bundles.py"} if SHIPPED in scorers else {}),
        "learned_from": {"inside": len(sets.inside), **{name: len(pixels) for name, pixels in sets.outside.items()}},
        "scorers": found,
        "codec": codecs(bundle, scorers, sets, most=codec),
    }
    return page, {name: curve(benign[name], own[UNSEEN]) for name, own in scores.items()}


def fit(bundle: Bundle, sets: Sets, random: np.random.Generator) -> dict[str, Any]:
    """The filters and the server's rivals, by name."""
    inside = outputs(bundle, to_learn_from(sets.inside, random))
    classes = inside.logits.argmax(axis=1)  # as the server's calibration does, which has no labels either
    scorers: dict[str, Any] = {}
    for name, foreign in sets.outside.items():
        with console.status(f"{bundle.model}: fitting the {name}"):
            scorers[name] = SCORERS["logistic"].fit(inside, classes, outside=outputs(bundle, to_learn_from(foreign, random)))
    if shipped := Calibration.load(bundle.directory / "calibration.npz").scorers.get("logistic"):
        scorers[SHIPPED] = shipped
    for name, kind in SCORERS.items():
        if name != "logistic":
            with console.status(f"{bundle.model}: fitting {name}"):
                scorers[name] = kind.fit(inside, classes)
    return scorers


def score(bundle: Bundle, scorers: Mapping[str, Any], images: Mapping[str, Pixels]) -> dict[str, dict[str, Scores]]:
    """Every scorer's scores of every set, and ODIN's."""
    odin = Odin(bundle.directory / bundle.manifest.models["fp32"], size=bundle.manifest.input.size)
    scores: dict[str, dict[str, Scores]] = {name: {} for name in (*scorers, "odin")}
    for title, pixels in images.items():
        with console.status(f"{bundle.model}: scoring {title}"):
            given = outputs(bundle, pixels)
            for name, scorer in scorers.items():
                scores[name][title] = scorer(logits=given.logits, features=given.features)
            scores["odin"][title] = odin(pixels)
    return scores


def codecs(bundle: Bundle, scorers: Mapping[str, Any], sets: Sets, *, most: int) -> dict[str, dict[str, dict[str, float]]]:
    """Shares that the filters flag, of own and of foreign test images, as their files are and after each codec, and the AUROC of both."""
    chosen = {BENIGN: sets.benign[:most]} | {title: sets.queries[title][:most] for title in (UNSEEN, OVERLAP) if title in sets.queries}
    variants = {"as the files are": chosen}
    variants |= {name: {title: encoded(pixels, quality) for title, pixels in chosen.items()} for name, quality in CODECS.items()}
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in FILTERS if name in scorers}
    for variant, images in variants.items():
        given = {title: outputs(bundle, pixels) for title, pixels in images.items()}
        for name, shares in found.items():
            scores = {title: scorers[name](logits=one.logits, features=one.features) for title, one in given.items()}
            shares[variant] = {title: float((one > EVEN_ODDS).mean()) for title, one in scores.items()}
            shares[variant]["auroc"] = auroc(scores[BENIGN], scores[UNSEEN])
    return found


def outputs(bundle: Bundle, images: Pixels) -> Outputs:
    """What scorers see of images."""
    given = bundle.infer_all(images)
    return Outputs(given.logits, given.features)


if __name__ == "__main__":
    main()
