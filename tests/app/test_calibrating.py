"""`cloneguard calibrate`: from folders of images to a calibration, and to a report that says what to do."""

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import calibrating
from app.calibrating import calibrate_bundle
from app.calibration_advice import advice
from app.calibration_evidence import Channel, Evidence, interval
from defenses.calibration import Calibration, CalibrationError
from defenses.copies import TRANSFORMS
from defenses.false_merges import FalseMerges
from models import bundle as bundles
from models.bundle import BUNDLED
from models.manifest import BundleError
from tests.pictures import jpeg, ship, smooth_noise

OPTIONS: dict[str, Any] = {
    "held_out": None,
    "outside": None,
    "benign_fpr": 0.02,
    "false_merges": 1e-3,
    "most": 10_000,
    "seed": 0,
    "report": None,
}


def folder(path: Path, *, ships: bool = False, blank: int = 0, twice: int = 0) -> Path:
    """500 pictures, the last of them one colour or copies of the first."""
    path.mkdir()
    for seed in range(500):
        image = ship(seed=seed, size=32) if ships else smooth_noise(seed=seed - 500 + twice if seed >= 500 - twice else seed)
        if blank and seed < blank:
            image = Image.new("RGB", (32, 32), (seed, 40, 90))
        (path / f"{seed}.jpg").write_bytes(jpeg(image))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A copy of the bundled recognizer calibrated on blobs, some of them there twice, against ships; its directory holds the report."""
    path = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(BUNDLED / "cifar10", path / "bundle")
    inside, outside = folder(path / "own", twice=20), folder(path / "foreign", ships=True)
    options = OPTIONS | {"outside": outside, "report": path / "bundle" / "calibration.html"}
    return path / "bundle", calibrate_bundle(path / "bundle", inside=inside, **options)


def test_the_bundle_is_whole_and_calibrated(done: tuple[Path, dict[str, Any]]) -> None:
    """The manifest fits its files and says what was measured; the report is no part of it."""
    directory, measured = done
    manifest = bundles.load(directory, device="cpu").manifest
    calibration = Calibration.load(directory / "calibration.npz")
    assert manifest.measured["calibration"] == measured
    assert "calibration.html" not in manifest.files
    assert calibration.default_scorer == "logistic"
    assert calibration.perceptual_radius == measured["perceptual_radius"]
    assert measured["benign_held_out"] == 100
    assert measured["found_at_benign_fpr"]["logistic"]["0.02"] > 0.9
    assert not list(directory.glob("*partial*"))


def test_the_report_is_one_file_that_shows_everything(done: tuple[Path, dict[str, Any]]) -> None:
    """Plots and pictures are inside; nothing is loaded from elsewhere; the doubled images are named."""
    page = (done[0] / "calibration.html").read_text(encoding="utf-8")
    assert "://" not in page
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    sizes = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size for source in sources]
    assert len([size for size in sizes if min(size) > 300]) == 3  # histograms, ROC, radii
    assert sizes.count((112, 112)) >= 20
    assert all(f"<td>{name}</td>" in page for name in TRANSFORMS)
    assert "probably true duplicates" in page


def test_without_foreign_images_the_report_says_so(tmp_path: Path) -> None:
    """No ROC then."""
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLED / "cifar10", bundle)
    report = tmp_path / "r.html"
    measured = calibrate_bundle(bundle, inside=folder(tmp_path / "own", blank=8), **OPTIONS | {"report": report})
    page = report.read_text(encoding="utf-8")
    assert measured["default_scorer"] == Calibration.load(bundle / "calibration.npz").default_scorer != "logistic"
    assert "No out-of-distribution images were given" in page
    assert 'alt="ROC"' not in page


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED / "cifar10", tmp_path / "bundle"))


def test_an_interrupted_run_leaves_the_old_calibration(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before everything is measured."""
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrating, "run_passes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate_bundle(bundle, inside=tmp_path, **OPTIONS)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_small_folders_and_damaged_images_are_refused(bundle: Path, tmp_path: Path) -> None:
    """The message names the folder or the file; nothing is skipped silently."""
    own = folder(tmp_path / "own")
    (own / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(BundleError, match=r"0\.jpg cannot be read"):
        calibrate_bundle(bundle, inside=own, **OPTIONS)
    (own / "0.jpg").unlink()
    with pytest.raises(BundleError, match=r"499 images .* at least 500"):
        calibrate_bundle(bundle, inside=own, **OPTIONS)


def test_a_missing_extra_and_a_missing_folder_are_said_first(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after minutes of model passes."""
    with pytest.raises(CalibrationError, match="no folder"):
        calibrate_bundle(bundle, inside=tmp_path, **OPTIONS | {"report": tmp_path / "nowhere" / "r.html"})
    monkeypatch.setattr(calibrating, "find_spec", lambda _: None)
    with pytest.raises(CalibrationError, match=re.escape("pip install 'cloneguard[calibrate]'")):
        calibrate_bundle(bundle, inside=tmp_path, **OPTIONS)


def evidence(**changes: Any) -> Evidence:
    """A calibration of 2,000 held-out images that nothing is wrong with."""
    own, foreign = np.linspace(0, 1, 2000, dtype=np.float32), np.linspace(1, 2, 200, dtype=np.float32)
    merges = FalseMerges(np.zeros(65), np.full(65, 1e-12), 1_000_000, 0)
    channel = Channel("perceptual hash", 64, 7, merges, {"flip": np.zeros(50, np.int64)}, ())
    whole = Evidence(
        default="logistic", own={"logistic": own}, foreign={"logistic": foreign}, thresholds={"logistic": 0.99}, learned=8000,
        benign_fpr=0.01, false_merges=1e-3, channels=(channel,), no_code="", most_foreign=(), missed=(), alike=(), blank=0, near_copies=0,
    )  # fmt: skip
    return replace(whole, **changes)


def said(**changes: Any) -> str:
    return "\n".join(advice(evidence(**changes)))


def test_a_good_calibration_is_told_its_rates_only() -> None:
    """Nothing to do but to serve."""
    text = said()
    assert "between 0.61% and 1.54%" in text
    assert "finds 100.0% of 200" in text
    assert "recognised well" in text
    assert not re.search(r"poor|blank|few images|duplicates\. Keep", text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"thresholds": {"logistic": 1.0}, "benign_fpr": 0.0001}, "rests on no image"),
        ({"thresholds": {"logistic": 0.998}, "benign_fpr": 0.001}, "at least 10000 with --held-out"),
        ({"blank": 3}, "most foreign images look blank"),
        ({"near_copies": 12}, "12 of your images lie within a radius"),
        ({"foreign": {}}, "No out-of-distribution images"),
        ({"foreign": {"logistic": np.zeros(200, np.float32)}}, "That is poor"),
        ({"no_code": "the embedding cannot tell images apart"}, "no embedding code, because the embedding cannot"),
    ],
)
def test_what_is_wrong_becomes_a_sentence(changes: dict[str, Any], expected: str) -> None:
    """Each defect of a calibration is named together with what to do."""
    assert expected in said(**changes)


def test_unrecognised_transforms_and_merging_codes_are_named() -> None:
    """The transform with its recall, and a radius that merges too much."""
    channel = evidence().channels[0]
    text = said(channels=(replace(channel, copies={"flip": np.full(50, 30)}),))
    assert "flip 0%" in text
    assert "the widest there is" in text  # no advice to widen what cannot be widened
    merging = replace(channel, radius=0, merges=FalseMerges(np.zeros(65), np.full(65, 1e-6), 1_000_000, 0))
    assert "Within its radius, the perceptual hash merges 4.88%" in said(channels=(merging,))


@pytest.mark.parametrize(("count", "n", "low", "high"), [(0, 100, 0, 0.0362), (10, 1000, 0.0048, 0.0183), (5, 5, 0.4782, 1)])
def test_intervals_are_exact(count: int, n: int, low: float, high: float) -> None:
    """Against published tables of Clopper and Pearson's interval."""
    assert interval(count, n) == pytest.approx((low, high), abs=2e-4)
