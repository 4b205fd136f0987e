"""A student leaves as an ONNX file that answers as it does."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attacker_client import students
from attacker_client.architectures import STUDENTS
from attacker_client.cli import app
from attacker_client.export import export


@pytest.mark.parametrize("name", [name for name in STUDENTS if name not in ("resnet34", "vgg16")])
def test_the_file_answers_as_the_student(name: str, tmp_path: Path) -> None:
    """For any number of images."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    student = students.build(name, classes=4, size=32, seed=1).eval()
    export(student, tmp_path / "student.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"pixels": images.transpose(0, 3, 1, 2).astype(np.float32) / 255})[0]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, student.probabilities(images), atol=0.03)  # the student computes in bfloat16 where it can


def test_a_finished_campaign_is_exported(tmp_path: Path) -> None:
    """Beside the student, or where it is wanted; what is no campaign is said."""
    pytest.importorskip("onnx")
    students.save(students.build("lenet", classes=3, size=16, seed=0), tmp_path / "student.pt")
    assert CliRunner().invoke(app, ["export", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(app, ["export", str(tmp_path), "--to", str(tmp_path / "theirs.onnx")]).exit_code == 0
    assert (tmp_path / "student.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()
    assert CliRunner().invoke(app, ["export", str(tmp_path / "nothing")]).exit_code == 2


def test_without_onnx_one_line_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no half file is left."""
    monkeypatch.setattr("attacker_client.export.find_spec", lambda _: None)
    students.save(students.build("lenet", classes=3, size=16, seed=0), tmp_path / "student.pt")
    told = CliRunner().invoke(app, ["export", str(tmp_path)])
    assert told.exit_code == 2 and "attacker-client[onnx]" in told.output and not list(tmp_path.glob("*.onnx*"))
