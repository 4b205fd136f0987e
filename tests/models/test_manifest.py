"""bundle.json says what is in a bundle, and nothing else passes."""

import json
from pathlib import Path

import pytest

from models.manifest import FILE, BundleError, Manifest, describe, digest, load, verify

FIELDS: dict[str, object] = {
    "format": 1,
    "name": "cifar10",
    "version": "1.0.0",
    "labels": ["cat", "dog"],
    "input": {"size": 32, "resize": "center_crop", "crop_fraction": 0.875},
    "models": {"fp32": "model.onnx"},
    "default_precision": {"cpu": "fp32", "cuda": "fp32"},
    "files": {"model.onnx": "0" * 64},
    "recipe": {"epochs": 3},
    "measured": {"top1": {"fp32": 0.9}},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A directory whose one file is no model: the manifest never opens it."""
    (tmp_path / "model.onnx").write_bytes(b"weights")
    describe(**FIELDS).with_file(tmp_path / "model.onnx").save(tmp_path)
    return tmp_path


def test_what_was_saved_is_loaded(bundle: Path) -> None:
    """A manifest survives the file unchanged, and the file has the documented layout."""
    manifest = verify(bundle)
    assert manifest == describe(**FIELDS).with_file(bundle / "model.onnx")
    written = json.loads((bundle / FILE).read_text())
    assert written == FIELDS | {"files": {"model.onnx": digest(bundle / "model.onnx")}}
    assert list(bundle.glob("*.partial")) == []


def test_a_changed_file_is_named(bundle: Path) -> None:
    """One flipped byte anywhere is found."""
    (bundle / "model.onnx").write_bytes(b"Weights")
    with pytest.raises(BundleError, match=r"model\.onnx was changed: its sha256 is"):
        verify(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    """A file that bundle.json names must be there."""
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        verify(bundle)


def test_a_rewritten_file_gets_its_new_digest(bundle: Path) -> None:
    """`with_file` adds or renews one digest and keeps the rest."""
    (bundle / "calibration.npz").write_bytes(b"thresholds")
    load(bundle).with_file(bundle / "calibration.npz").save(bundle)
    assert set(verify(bundle).files) == {"model.onnx", "calibration.npz"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "at format"),
        ({"labels": ["cat"]}, "at labels"),
        ({"labels": ["cat", ""]}, "at labels.1"),
        ({"name": "../cifar10"}, "at name"),
        ({"input": {"size": 0}}, "at input.size"),
        ({"input": {"size": 32, "crop_fraction": 1.5}}, "at input.crop_fraction"),
        ({"input": {"size": 32, "resize": "pad"}}, "at input.resize"),
        ({"models": {"fp32": "../model.onnx"}}, "at models.fp32"),
        ({"models": {"int8": "model.onnx"}}, "models has no fp32 entry"),
        ({"models": {"fp32": "other.onnx"}}, "files has no sha256 of other.onnx"),
        ({"files": {"model.onnx": "0" * 63}}, "at files.model.onnx"),
        ({"files": {"/etc/passwd": "0" * 64}}, "at files./etc/passwd"),
        ({"default_precision": {"cpu": "int8", "cuda": "fp32"}}, "default_precision.cpu is int8, which models does not have"),
        ({"default_precision": {"cpu": "fp32"}}, "default_precision needs cpu and cuda"),
        ({"colour": "blue"}, "at colour"),
    ],
)
def test_nonsense_is_refused_with_its_place(bundle: Path, change: dict[str, object], message: str) -> None:
    """Every rule of the layout is enforced, in one line that names the field, read or built."""
    (bundle / FILE).write_text(json.dumps(FIELDS | change))
    with pytest.raises(BundleError, match=message) as caught:
        load(bundle)
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match=message):
        describe(**(FIELDS | change))


def test_other_directories_are_told_apart_from_broken_bundles(tmp_path: Path) -> None:
    """A directory without bundle.json is no bundle; one with broken JSON is a broken one."""
    with pytest.raises(BundleError, match=r"is not a bundle: it has no bundle\.json"):
        load(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(BundleError, match=r"bundle\.json is not valid: Invalid JSON"):
        load(tmp_path)


def test_a_manifest_does_not_change() -> None:
    """Manifests are frozen: what was verified is what is used."""
    with pytest.raises(ValueError, match="frozen"):
        describe(**FIELDS).name = "other"  # type: ignore[misc]
    assert isinstance(describe(**FIELDS), Manifest)
