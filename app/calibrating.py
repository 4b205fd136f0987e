"""`cloneguard calibrate`: teach a bundle's defences what the recognizer's own images look like."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from defenses.calibration import CalibrationError
from defenses.calibration import calibrate as fit
from defenses.copies import copies_by, random_copies
from defenses.nonsense import nonsense
from defenses.out_of_distribution.scorers import Outputs
from models import bundle as bundles
from models.bundle import Bundle
from models.folders import image_files, read_images
from models.manifest import BundleError

LEAST_IMAGES = 500  # below it a threshold at 1% rests on five images
COPIES = 3  # near-duplicates of each image that the embedding's code learns from


def calibrate(
    bundle: Annotated[str, typer.Argument(help="Name or directory of the bundle; its calibration is rewritten.")],
    *,
    images: Annotated[Path, typer.Option(help="Folder of images of the recognizer's own kind, such as those it was trained on.")],
    held_out: Annotated[Path | None, typer.Option(help="Others that it was not trained on; default: a fifth of --images.")] = None,
    outliers: Annotated[Path | None, typer.Option(help="Folder of other images: without it there is no logistic filter.")] = None,
    most: Annotated[int, typer.Option(help="Most images read from each folder.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the choice of images and of their copies.")] = 0,
) -> None:
    """Calibrate the out-of-distribution filter and the near-duplicate code of a bundle."""
    measured = calibrate_bundle(bundles.locate(bundle), images=images, held_out=held_out, outliers=outliers, most=most, seed=seed)
    typer.echo(f"default scorer: {measured['default_scorer']}; thresholds from {measured['benign_held_out']} images")
    for scorer, shares in measured["found_at_benign_fpr"].items():
        typer.echo(f"  {scorer}: " + ", ".join(f"finds {share:.1%} at {float(fpr):.1%} false positives" for fpr, share in shares.items()))
    code = measured["embedding_code"]
    typer.echo(f"embedding code: {code['bits']} bits, radius {code['radius']}, finds {code['share_of_copies_within_radius']:.1%} of copies")


def calibrate_bundle(
    directory: Path, *, images: Path, held_out: Path | None, outliers: Path | None, most: int, seed: int
) -> dict[str, Any]:
    """Rewrite the bundle's calibration.npz and its digest; returns what was measured. Raises BundleError.

    The filter learns from every image as it is and recompressed, so that it can't tell sets apart by their codec; thresholds come from
    held-out images as they are. Without `held_out` a fifth of `images` is kept for that.
    """
    if outliers and not find_spec("sklearn"):
        raise CalibrationError("the logistic filter is fitted with scikit-learn: pip install 'cloneguard[train]', or leave --outliers out")
    random = np.random.default_rng(seed)
    bundle = bundles.load(directory, device="cpu", threads=os.cpu_count() or 1)
    own = _read(images, bundle, most=most, random=random)
    kept = _read(held_out, bundle, most=most, random=random) if held_out else own[::5]
    if not held_out:
        own = np.delete(own, np.s_[::5], axis=0)
    inside = bundle.infer_all(np.concatenate([own, copies_by("recompress", own, random)]))
    foreign = _foreign(outliers, bundle, most=most, random=random) if outliers else None
    try:
        arrays, measured = fit(
            Outputs(inside.logits, inside.features),
            inside.logits.argmax(axis=1),
            held_out=_outputs(bundle, kept),
            outside=None if foreign is None else _outputs(bundle, foreign[0]),
            outside_held_out=None if foreign is None else _outputs(bundle, foreign[1]),
            embeddings=inside.embedding[: len(own)],
            copies=[bundle.infer_all(random_copies(own, random)).embedding for _ in range(COPIES)],
        )
    except (RuntimeError, ValueError) as error:  # scikit-learn is absent, or the images are no basis
        raise CalibrationError(str(error)) from error
    path = directory / "calibration.npz"
    partial = directory / "calibration.partial.npz"
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the arrays for its own options
    # interrupted in between, the bundle is one that was never calibrated, not one whose digests don't fit
    uncalibrated = {name: digest for name, digest in bundle.manifest.files.items() if name != path.name}
    bundle.manifest.model_copy(update={"files": uncalibrated}).save(directory)
    partial.replace(path)
    manifest = bundle.manifest.with_file(path)
    manifest.model_copy(update={"measured": {**manifest.measured, "calibration": measured}}).save(directory)
    return measured


def _foreign(outliers: Path, bundle: Bundle, *, most: int, random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Foreign images to learn from, and a tenth of the folder's to measure with, as they are."""
    images = _read(outliers, bundle, most=most, random=random)
    learned = np.delete(images, np.s_[::10], axis=0)
    drawn = nonsense(len(learned) // 10, bundle.manifest.input.size, random)
    return np.concatenate([learned, copies_by("recompress", learned, random), drawn, copies_by("recompress", drawn, random)]), images[::10]


def _read(folder: Path, bundle: Bundle, *, most: int, random: np.random.Generator) -> NDArray[np.uint8]:
    files = image_files(folder)
    if len(files) < LEAST_IMAGES:
        raise BundleError(f"{folder} holds {len(files)} images (.jpg, .png, .webp); calibrating needs at least {LEAST_IMAGES}")
    chosen = [files[i] for i in random.permutation(len(files))[:most]]
    return read_images(track(chosen, description=f"reading {folder.name}"), bundle.manifest.input)


def _outputs(bundle: Bundle, images: NDArray[np.uint8]) -> Outputs:
    outputs = bundle.infer_all(images)
    return Outputs(outputs.logits, outputs.features)
