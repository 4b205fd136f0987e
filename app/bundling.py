"""`cloneguard bundle`: a bundle from any ONNX image classifier."""

from pathlib import Path
from typing import Annotated

import typer

from models.manifest import BundleError, Manifest, Resize


def read_labels(path: Path) -> list[str]:
    """One label a line, in the order of the model's outputs. Raises BundleError."""
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"can't read the labels {path}: {error}") from error
    while labels and not labels[-1]:
        labels.pop()
    if not all(labels):
        raise BundleError(f"{path}: line {labels.index('') + 1} is empty; one label a line is expected")
    return labels


def three(text: str, option: str) -> list[float]:
    """Three numbers, comma-separated, one a colour channel. Raises BundleError."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise BundleError(f"{option} {text!r}: expected three numbers, such as 0.485,0.456,0.406")
    return numbers


def bundle(
    model: Annotated[Path, typer.Argument(help="ONNX image classifier.")],
    *,
    labels: Annotated[Path, typer.Option(help="Text file, one label a line, in the order of the outputs.")],
    out: Annotated[Path, typer.Option(help="Bundle directory to make.")],
    size: Annotated[int, typer.Option(help="Side of the input image (pixels).")] = 224,
    mean: Annotated[str, typer.Option(help="Mean of each colour, in 0..1.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Standard deviation of each colour, in 0..1.")] = "0.229,0.224,0.225",
    resize: Annotated[str, typer.Option(help="stretch, or center_crop after resizing the shorter side.")] = "center_crop",
    crop_fraction: Annotated[float, typer.Option(help="Share of the shorter side that center_crop keeps, such as 0.875.")] = 1.0,
    name: Annotated[str | None, typer.Option(help="Name that clients see; default: the model file's.")] = None,
    version: Annotated[str, typer.Option(help="Version that clients see.")] = "1.0.0",
    backbone: Annotated[
        str, typer.Option(help="Network beside the classifier that describes images: builtin, none, torchvision:NAME, or an ONNX file.")
    ] = "builtin",
    images: Annotated[Path | None, typer.Option(help="Folder of typical images: makes an int8 model beside the fp32 one.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
) -> None:
    """Make a bundle from an ONNX image classifier."""
    from models.packaging import make_bundle  # noqa: PLC0415, the onnx package takes a second to import, and serving needs none of it

    if resize not in ("stretch", "center_crop"):
        raise BundleError(f"--resize {resize!r}: expected stretch or center_crop")
    rule: Resize = resize  # type: ignore[assignment]  # checked above; typer knows no Literal
    manifest = make_bundle(
        model,
        out,
        name=name or model.stem,
        version=version,
        labels=read_labels(labels),
        size=size,
        mean=three(mean, "--mean"),
        std=three(std, "--std"),
        resize=rule,
        crop_fraction=crop_fraction,
        backbone=backbone,
        calibration_images=images,
        quantise=images is not None,
        overwrite=overwrite,
    )
    typer.echo(_summary(manifest, out))


def _summary(manifest: Manifest, out: Path) -> str:
    lines = [f"{out}: {manifest.name} {manifest.version}, {len(manifest.labels)} labels, {manifest.input.size}x{manifest.input.size}"]
    extra = manifest.recipe["backbone"]
    lines.append(f"  backbone: {extra['name']}" if extra else "  no backbone: features and embedding are the classifier's own")
    for precision, speeds in manifest.measured["images_per_second"].items():
        agreement = manifest.measured.get("agreement", {}).get(precision, 1.0)
        shown = ", ".join(f"{speed:.0f} images/s at batch {batch}" for batch, speed in speeds.items())
        lines.append(f"  {precision}: {shown}; {agreement:.1%} of labels as fp32")
    lines.append(f"  on the CPU it will run {manifest.default_precision['cpu']}")
    lines.append(
        f"  next: cloneguard calibrate --bundle {out} --in-distribution DIR, so that the out-of-distribution filter knows your images"
    )
    return "\n".join(lines)
