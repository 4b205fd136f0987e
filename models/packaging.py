"""Make a bundle directory from any ONNX image classifier; what `cloneguard bundle` runs."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from models.backbone_files import BackboneFile, choose
from models.beside import branch, merge
from models.folders import image_files, read_images
from models.graph import prepare
from models.manifest import FILE, BundleError, Manifest, Precision, Resize, describe, digest
from models.onnx_file import halve_weights, open_session
from models.quantize import quantize

FP32, INT8 = "model.onnx", "model.int8.onnx"
MIN_IMAGES, MAX_IMAGES = 20, 1000  # one half calibrates, the other measures
MAX_LOSS = 0.003  # of top-1 accuracy, up to which int8 may be the default
MAX_DISAGREEMENT = 0.01  # of int8 labels with fp32 labels, likewise, where no true labels are known
ROUNDS = 7


def make_bundle(
    model_path: Path,
    out_dir: Path,
    *,
    name: str,
    version: str,
    labels: Sequence[str],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    resize: Resize = "stretch",
    crop_fraction: float = 1.0,
    backbone: str = "none",
    calibration_images: Path | None = None,
    quantise: bool = False,
    overwrite: bool = False,
) -> Manifest:
    """Write a bundle of the classifier at `model_path` to `out_dir` and return its manifest.

    `backbone` is what `backbone_files.choose` takes; its features and its embedding go beside the classifier's features.
    With `quantise`, an int8 model is calibrated on one half of the images under `calibration_images` (any depth, at
    most 1,000 in all) and compared with fp32 on the other half: `measured` holds the agreement of their labels and
    the images a second of both, measured in turns in this process on one thread. It becomes the default on the CPU
    if at least 99% of the labels agree and it was the faster one. The directory appears complete or not at all;
    `overwrite` replaces a bundle that is there, and nothing but a bundle. Raises BundleError.
    """
    manifest = describe(  # first, so that a bad name costs no minutes
        name=name,
        version=version,
        labels=tuple(labels),
        input={"size": size, "resize": resize, "crop_fraction": crop_fraction},
        models={"fp32": FP32},
        default_precision={"cpu": "fp32", "cuda": "fp32"},
        files={FP32: "0" * 64},
    )
    _check_target(out_dir, overwrite=overwrite)
    files = _calibration_files(calibration_images) if quantise else []
    extra = choose(backbone)
    prepared = prepare(model_path, classes=len(manifest.labels), size=size, mean=mean, std=std)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as folder:
        work = Path(folder) / "bundle"
        work.mkdir()
        classifiers = {"fp32": prepared}
        measured: dict[str, object] = {}
        scores = {"fp32": 1.0}
        images = read_images(files, manifest.input) if quantise else None
        calibration = None if images is None else images[0::2]
        if calibration is not None:
            classifiers["int8"] = quantize(prepared, [calibration])
        models = save_models(work, classifiers, extra, size=size, calibration=calibration)
        if images is not None:
            fp32, int8 = (_labels(work / file, images[1::2]) for file in (FP32, INT8))
            scores["int8"] = float((fp32 == int8).mean())
            measured["agreement"] = {"int8": scores["int8"], "images": len(fp32)}
        speeds = measure_speed(work, models)
        manifest = manifest.model_copy(
            update={
                "models": models,
                "default_precision": {"cpu": cpu_precision(scores, speeds, max_loss=MAX_DISAGREEMENT), "cuda": "fp32"},
                "files": {file: digest(work / file) for file in models.values()},
                "recipe": {
                    "source": model_path.name,
                    "source_sha256": digest(model_path),
                    "mean": list(mean),
                    "std": list(std),
                    "backbone": backbone_recipe(extra),
                    "calibration_images": (len(files) + 1) // 2,
                    "onnxruntime": onnxruntime.__version__,
                },
                "measured": {**measured, "images_per_second": speeds},
            }
        )
        manifest.save(work)
        if out_dir.exists():
            out_dir.rename(Path(folder) / "replaced")
        work.rename(out_dir)
    return manifest


def save_models(
    directory: Path,
    classifiers: Mapping[str, onnx.ModelProto],
    backbone: BackboneFile | None,
    *,
    size: int,
    calibration: NDArray[np.uint8] | None,
    halve: bool = False,
) -> dict[str, str]:
    """Write a bundle's graphs, each with the backbone in its own precision beside it; return the files' names.

    Classifier and backbone are quantised apart, so the int8 classifier's logits are the same with any backbone and with none.
    `calibration` (n, size, size, 3) is needed for int8. `halve` stores large weights as float16, for files of half the size.
    """
    names = {"fp32": FP32, "int8": INT8}
    extra = None if backbone is None else branch(backbone.model, size)
    for precision, classifier in classifiers.items():
        model = classifier
        if extra is not None and precision == "int8":
            assert calibration is not None
            model = merge(classifier, quantize(extra, [calibration]))
        elif extra is not None:
            model = merge(classifier, extra)
        if halve:
            halve_weights(model)
        onnx.save(model, str(directory / names[precision]))
    return {precision: names[precision] for precision in classifiers}


def backbone_recipe(backbone: BackboneFile | None) -> dict[str, str] | None:
    """What a bundle's recipe says of its backbone."""
    return None if backbone is None else {"name": backbone.name, "sha256": backbone.sha256}


def top1(model: Path, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> float:
    """Share of images (N, H, W, 3) whose best logit is their class (N,)."""
    return float((_labels(model, images) == classes).mean())


def measure_speed(directory: Path, models: Mapping[str, str], *, batches: Sequence[int] = (1, 16)) -> dict[str, dict[str, float]]:
    """Images a second of each model on one thread, by batch size, the median of 7 rounds.

    The models take turns within a round, so that whatever else the machine does hits all of them.
    """
    sessions = {precision: open_session(directory / file) for precision, file in models.items()}
    speeds: dict[str, dict[str, float]] = {precision: {} for precision in models}
    for batch in batches:
        rounds: dict[str, list[float]] = {precision: [] for precision in models}
        calls = max(1, 16 // batch)
        for turn in range(ROUNDS + 1):
            for precision, session in sessions.items():
                shape = session.get_inputs()[0].shape[1:]
                images = np.random.default_rng(turn).integers(0, 256, (batch, *shape), dtype=np.uint8)
                started = time.perf_counter()
                for _ in range(calls):
                    session.run(["logits", "features", "embedding"], {"images": images})
                rounds[precision].append(batch * calls / (time.perf_counter() - started))
        for precision, values in rounds.items():
            speeds[precision][str(batch)] = round(median(values[1:]), 1)  # the first round allocates
    return speeds


def cpu_precision(scores: Mapping[str, float], speeds: Mapping[str, Mapping[str, float]], *, max_loss: float = MAX_LOSS) -> Precision:
    """The precision to use on a CPU: int8 if it loses at most `max_loss` of its score and was measured to be faster."""
    if "int8" not in speeds or scores["fp32"] - scores["int8"] > max_loss + 1e-9:
        return "fp32"
    return "int8" if geometric_mean(speeds["int8"].values()) > geometric_mean(speeds["fp32"].values()) else "fp32"


def _labels(model: Path, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    session = open_session(model)
    rows = [session.run(["logits"], {"images": images[i : i + 64]})[0].argmax(axis=1) for i in range(0, len(images), 64)]
    return np.concatenate(rows)


def _check_target(out_dir: Path, *, overwrite: bool) -> None:
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    if not (out_dir / FILE).is_file():
        raise BundleError(f"{out_dir} exists and is not a bundle: choose another directory")
    if not overwrite:
        raise BundleError(f"{out_dir} is a bundle already: choose another directory, or allow overwriting it")


def _calibration_files(folder: Path | None) -> list[Path]:
    """Up to 1,000 image files under a folder, a random choice that is the same on every machine."""
    if folder is None:
        raise BundleError("int8 needs a folder of training images to calibrate on: give one, or make the bundle without int8")
    found = image_files(folder)
    if len(found) < MIN_IMAGES:
        raise BundleError(f"{folder} has {len(found)} JPEG, PNG or WebP images, and calibrating int8 needs at least {MIN_IMAGES}")
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:MAX_IMAGES]]
