"""Calibration: what is learned offline is what the server reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses.calibration import ONE_CLASS, Calibration, CalibrationError, calibrate
from defenses.out_of_distribution.scorers import SCORERS, Outputs, ScorerName

NUMPY_ARRAY = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }" + b" " * 58 + b"\n" + bytes(4)
CENTRES = np.random.default_rng(0).normal(0, 4, (5, 16))


def own(n: int, *, seed: int) -> tuple[Outputs, np.ndarray]:
    random = np.random.default_rng(seed)
    classes = random.integers(0, 5, n)
    logits = random.normal(0, 1, (n, 5)) + 6 * np.eye(5)[classes]
    return Outputs(logits.astype(np.float32), (CENTRES[classes] + random.normal(0, 1, (n, 16))).astype(np.float32)), classes


def foreign(n: int, *, seed: int) -> Outputs:
    random = np.random.default_rng(seed)
    return Outputs(random.normal(0, 1, (n, 5)).astype(np.float32), random.normal(3, 3, (n, 16)).astype(np.float32))


def calibrated(*, with_outside: bool = True, with_code: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    if with_outside:
        pytest.importorskip("sklearn")
    random = np.random.default_rng(3)
    inside, classes = own(600, seed=1)
    vectors = random.normal(size=(600, 64)).astype(np.float32)
    return calibrate(
        inside,
        classes,
        held_out=own(1500, seed=2)[0],
        outside=foreign(500, seed=4) if with_outside else None,
        outside_held_out=foreign(500, seed=5) if with_outside else None,
        embeddings=vectors if with_code else None,
        copies=[vectors + random.normal(0, 0.1, vectors.shape).astype(np.float32)] if with_code else (),
        hashes=tuple(random.integers(0, 256, (2, 600, 8), dtype=np.uint8)) if with_code else None,
        benign_fpr=0.03,
    )


def test_what_was_learned_survives_the_file(tmp_path: Path) -> None:
    """Scorers, thresholds and code read from calibration.npz equal those read from the arrays."""
    arrays, _ = calibrated()
    np.savez_compressed(tmp_path / "calibration.npz", **arrays)
    stored, direct = Calibration.load(tmp_path / "calibration.npz"), Calibration.load(arrays)
    probes, _ = own(50, seed=8)
    assert set(stored.scorers) == {"logistic", "msp", "energy", "mahalanobis", "knn"}
    for name, scorer in stored.scorers.items():
        expected = direct.scorers[name](logits=probes.logits, features=probes.features)
        np.testing.assert_array_equal(scorer(logits=probes.logits, features=probes.features), expected)
        assert stored.threshold(name, 0.02) == direct.threshold(name, 0.02)
    assert stored.code is not None
    assert direct.code is not None
    np.testing.assert_array_equal(stored.code(np.eye(64, dtype=np.float32)), direct.code(np.eye(64, dtype=np.float32)))
    assert stored.digest == direct.digest
    assert stored.companions is not None
    assert direct.companions is not None
    np.testing.assert_array_equal(stored.companions.orders, direct.companions.orders)
    np.testing.assert_array_equal(stored.companions.weights, direct.companions.weights)


def test_an_older_calibration_has_no_companions() -> None:
    """The rest of it is read as before; companions of another recognizer are refused."""
    arrays, _ = calibrated(with_outside=False)
    older = Calibration.load({name: array for name, array in arrays.items() if not name.startswith("companions/")})
    assert older.companions is None
    assert set(older.scorers) == set(Calibration.load(arrays).scorers)
    foreign_companions = Calibration.load({"ood/default": np.array(""), "companions/orders": np.eye(7), "companions/weights": np.eye(7)})
    probes, _ = own(2, seed=8)
    with pytest.raises(CalibrationError, match="companions of 7 classes"):
        foreign_companions.check(logits=probes.logits, features=probes.features, embedding=probes.features)


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.01, 0.02, 0.05, 0.2])
def test_any_false_positive_rate_has_a_threshold_without_refitting(fpr: float) -> None:
    """On the images that the thresholds rest on, the share above is at most what was asked for, and hardly less."""
    arrays, _ = calibrated()
    calibration, (benign, _) = Calibration.load(arrays), own(1500, seed=2)
    for name, scorer in calibration.scorers.items():
        share = (scorer(logits=benign.logits, features=benign.features) > calibration.threshold(name, fpr)).mean()
        assert fpr - 0.003 <= share <= fpr


def test_without_foreign_images_there_is_no_logistic_filter() -> None:
    """The other four are there, and the calibration says which one to use."""
    arrays, figures = calibrated(with_outside=False)
    calibration = Calibration.load(arrays)
    assert set(calibration.scorers) == {"msp", "energy", "mahalanobis", "knn"}
    assert calibration.default_scorer == figures["default_scorer"] == ONE_CLASS
    assert calibration.scorer()[0] == ONE_CLASS
    with pytest.raises(CalibrationError, match="logistic"):
        calibration.scorer("logistic")


def test_with_foreign_images_the_default_is_the_papers_filter_and_measured() -> None:
    """Figures for every scorer, monotonous in the rate; the logistic one finds what it was taught to find."""
    _, figures = calibrated()
    assert figures["default_scorer"] == "logistic"
    assert figures["benign_held_out"] == 1500
    for found in figures["found_at_benign_fpr"].values():
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert list(found) == ["0.05", "0.03", "0.02", "0.01", "0.001"]  # and at the rate that was asked for
    assert figures["found_at_benign_fpr"]["logistic"]["0.05"] > 0.9


def test_a_recognizer_without_embedding_has_no_code() -> None:
    """Its fingerprint is the perceptual hash alone."""
    arrays, figures = calibrated(with_outside=False, with_code=False)
    assert Calibration.load(arrays).code is None
    assert Calibration.load(arrays).perceptual_radius is None
    assert "embedding_code" not in figures


def test_an_embedding_that_tells_nothing_apart_costs_the_code_only() -> None:
    """The filter and the perceptual radius are calibrated all the same, and the figures say why there is no code."""
    inside, classes = own(600, seed=1)
    first, second = np.random.default_rng(3).integers(0, 256, (2, 600, 8), dtype=np.uint8)
    arrays, figures = calibrate(
        inside, classes, held_out=own(600, seed=2)[0], embeddings=np.ones((600, 8), np.float32), hashes=(first, second)
    )
    calibration = Calibration.load(arrays)
    assert calibration.code is None
    assert "cannot tell images apart" in figures["no_embedding_code"]
    assert calibration.scorer()[0] == ONE_CLASS
    assert calibration.perceptual_radius == figures["perceptual_radius"]
    assert 1 <= figures["perceptual_radius"] <= 7


@pytest.mark.parametrize("name", ["mahalanobis", "knn"])
def test_one_class_scorers_do_not_care_for_a_features_unit(name: ScorerName) -> None:
    """Half of the features in a unit thirty times as large: the same images look foreign."""
    (inside, classes), probes = own(600, seed=1), foreign(300, seed=5)
    unit = np.repeat([1, 30], 8).astype(np.float32)
    ranks = []
    for factor in (1, unit):
        scorer = SCORERS[name].fit(Outputs(inside.logits, inside.features * factor), classes)
        ranks.append(scorer(logits=probes.logits, features=probes.features * factor).argsort().argsort().astype(float))
    assert np.corrcoef(np.stack(ranks))[0, 1] > 0.999


def test_the_code_reports_its_radius_and_recall() -> None:
    """What bundle.json says about the code is what the code is."""
    arrays, figures = calibrated(with_outside=False)
    code = Calibration.load(arrays).code
    assert code is not None
    assert figures["embedding_code"]["radius"] == code.radius
    assert figures["embedding_code"]["bits"] == 256
    assert figures["embedding_code"]["share_of_copies_within_radius"] > 0.99


def test_the_digest_names_the_code_and_nothing_else() -> None:
    """Learning another filter keeps stored fingerprints valid; another code makes them another index."""
    (first, _), (without_filter, _), (without_code, _) = calibrated(), calibrated(with_outside=False), calibrated(with_code=False)
    assert Calibration.load(first).digest == Calibration.load(without_filter).digest != Calibration.load(without_code).digest
    other = first | {"embedding/mean": first["embedding/mean"] + 1}
    assert Calibration.load(other).digest != Calibration.load(first).digest


def test_a_bundle_that_was_never_calibrated_has_an_empty_calibration(tmp_path: Path) -> None:
    """No file is no error: there are recognizers without one."""
    calibration = Calibration.load(tmp_path / "calibration.npz")
    assert calibration.code is None
    with pytest.raises(CalibrationError, match="cloneguard calibrate"):
        calibration.scorer()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not an archive", NUMPY_ARRAY])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """The error names the file."""
    path = tmp_path / "calibration.npz"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"calibration\.npz"):
        Calibration.load(path)


def test_an_incomplete_calibration_is_refused() -> None:
    """A scorer without its arrays is no scorer."""
    arrays, _ = calibrated(with_outside=False)
    del arrays["ood/mahalanobis/means"]
    with pytest.raises(CalibrationError, match="means"):
        Calibration.load(arrays)
