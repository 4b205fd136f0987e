"""`cloneguard calibrate`: teach a bundle's defences what the recognizer's own images look like."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from app.calibration_passes import Passes, joined, run_passes
from defenses.calibration import FALSE_MERGES, CalibrationError
from defenses.calibration import calibrate as fit
from defenses.fingerprint import perceptual_hashes
from defenses.out_of_distribution.scorers import Outputs
from models import bundle as bundles
from models.bundle import Bundle

NEEDED = ("sklearn", "matplotlib", "jinja2")


def calibrate(
    *,
    bundle: Annotated[str, typer.Option(help="Name or directory of the bundle; its calibration is rewritten.")],
    inside: Annotated[
        Path, typer.Option("--in-distribution", help="Folder of images of the recognizer's own kind, such as those it was trained on.")
    ],
    held_out: Annotated[Path | None, typer.Option(help="Others that it was not trained on; default: a fifth of those.")] = None,
    outside: Annotated[
        Path | None, typer.Option("--out-of-distribution", help="Folder of other images: without it there is no logistic filter.")
    ] = None,
    false_merges: Annotated[
        float, typer.Option(help="Share of distinct images that may be taken for one of 50,000 stored.")
    ] = FALSE_MERGES,
    benign_fpr: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Share of honest queries that may be flagged, which the report is about.")
    ] = 0.01,
    most: Annotated[int, typer.Option(min=500, help="Most images read from each folder.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of images and of their copies.")] = 0,
    report: Annotated[Path | None, typer.Option(help="HTML report; default: calibration.html in the bundle's directory.")] = None,
) -> None:
    """Calibrate the out-of-distribution filter and the near-duplicate radii of a bundle, and report on them."""
    directory = bundles.locate(bundle)
    page = report or directory / "calibration.html"
    measured = calibrate_bundle(
        directory,
        inside=inside,
        held_out=held_out,
        outside=outside,
        benign_fpr=benign_fpr,
        false_merges=false_merges,
        most=most,
        seed=seed,
        report=page,
    )
    typer.echo(f"default scorer: {measured['default_scorer']}; thresholds from {measured['benign_held_out']} images")
    for scorer, shares in measured["found_at_benign_fpr"].items():
        typer.echo(f"  {scorer}: " + ", ".join(f"finds {share:.1%} at {float(fpr):.1%} false positives" for fpr, share in shares.items()))
    typer.echo(f"perceptual hash: 64 bits, radius {measured['perceptual_radius']}")
    if code := measured.get("embedding_code"):
        typer.echo(
            f"embedding code: {code['bits']} bits, radius {code['radius']}, finds {code['share_of_copies_within_radius']:.1%} of copies"
        )
    else:
        typer.echo(f"no embedding code: {measured['no_embedding_code']}")
    typer.echo(f"report: {page}")


def calibrate_bundle(
    directory: Path, *, inside: Path, held_out: Path | None, outside: Path | None, benign_fpr: float,
    false_merges: float, most: int, seed: int,
    report: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Rewrite the bundle's calibration.npz and its digest, and write the report where one is asked for; returns what was measured.

    The filter learns from every image as it is and recompressed, so that it can't tell sets apart by their codec; thresholds come from
    held-out images as they are. Nothing is written before everything is measured. Raises BundleError and
    CalibrationError.
    """
    if any(find_spec(name) is None for name in NEEDED):
        raise CalibrationError("calibrating needs scikit-learn, matplotlib and jinja2: pip install 'cloneguard[calibrate]'")
    if report and not report.absolute().parent.is_dir():
        raise CalibrationError(f"the report {report} cannot be written: there is no folder {report.parent}")
    bundle = bundles.load(directory, device="cpu", threads=os.cpu_count() or 1)
    columns = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        random = np.random.default_rng(seed)
        passes = run_passes(bundle, progress, inside=inside, held_out=held_out, outside=outside, most=most, random=random)
        progress.add_task("fitting", total=None)
        try:
            arrays, measured = _fitted(passes, benign_fpr=benign_fpr, false_merges=false_merges)
        except (RuntimeError, ValueError) as error:  # the images are no basis
            raise CalibrationError(str(error)) from error
        page = ""
        if report:
            from app.calibration_report import page as made  # noqa: PLC0415, matplotlib takes seconds to import, and serving needs none

            page = made(bundle, passes, arrays=arrays, measured=measured, benign_fpr=benign_fpr, false_merges=false_merges)
    _write(bundle, directory, arrays, measured)
    if report:
        report.write_text(page, encoding="utf-8")
    return measured


def _fitted(passes: Passes, *, benign_fpr: float, false_merges: float) -> tuple[dict[str, Any], dict[str, Any]]:
    learned = joined([passes.learned.outputs, passes.recompressed])
    kept, distinct = passes.held_out, passes.distinct  # the same picture twice is no false merge
    arrays, measured = fit(
        Outputs(learned.logits, learned.features),
        learned.logits.argmax(axis=1),
        held_out=Outputs(kept.outputs.logits, kept.outputs.features),
        outside=Outputs(passes.outside.logits, passes.outside.features) if passes.outside else None,
        outside_held_out=Outputs(passes.foreign.outputs.logits, passes.foreign.outputs.features) if passes.foreign else None,
        embeddings=passes.learned.outputs.embedding,
        copies=passes.copies,
        references=kept.outputs.embedding[distinct],
        hashes=(perceptual_hashes(kept.images[distinct]), perceptual_hashes(passes.learned.images)),
        benign_fpr=benign_fpr,
        false_merges=false_merges,
    )
    return arrays, measured | {"held_out_duplicates": int((~distinct).sum())}


def _write(bundle: Bundle, directory: Path, arrays: dict[str, Any], measured: dict[str, Any]) -> None:
    path = directory / "calibration.npz"
    partial = directory / "calibration.partial.npz"
    try:
        np.savez_compressed(partial, **arrays)
        # interrupted in between, the bundle is one that was never calibrated, not one whose digests don't fit
        uncalibrated = {name: digest for name, digest in bundle.manifest.files.items() if name != path.name}
        bundle.manifest.model_copy(update={"files": uncalibrated}).save(directory)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    manifest = bundle.manifest.with_file(path)
    manifest.model_copy(update={"measured": {**manifest.measured, "calibration": measured}}).save(directory)
