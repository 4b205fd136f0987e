"""A user's own classifier: from an ONNX file to a defended endpoint."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
import torchvision

from models.bundle import BUNDLED
from tests.pictures import jpeg, ship, smooth_noise
from tests.server import RunningServer


def cloneguard(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "app", *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's ResNet-18 with random weights as a bundle of 1,000 labels at 224 pixels."""
    folder = tmp_path_factory.mktemp("resnet18")
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), folder / "resnet18.onnx", opset_version=18, dynamo=False)
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(1000)))
    done = cloneguard("bundle", str(folder / "resnet18.onnx"), "--labels", str(folder / "labels.txt"), "--out", str(folder / "bundle"))
    assert done.returncode == 0, done.stderr
    assert "1000 labels, 224x224" in done.stdout
    return folder / "bundle"


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")


def test_an_own_classifier_is_served(resnet18: Path, start: Callable[..., RunningServer]) -> None:
    """Near-duplicates, misrecognition and truncation work without calibration; answers come from the own labels."""
    server = start("--bundle", str(resnet18), "--set", "ood.mode=off")
    image = jpeg(ship(size=256))
    answers = [httpx.post(f"{server.url}/predict", content=image, headers={"content-type": "image/jpeg"}, timeout=20) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["model"]["name"] == "resnet18"
    assert answers[0].json()["predictions"][0]["label"].startswith("class ")
    assert answers[0].json()["predictions"] == answers[1].json()["predictions"]
    assert server.metric("cloneguard_near_duplicate_queries_total", channel="digest") == 1
    assert server.metric("cloneguard_degraded", component="near_duplicates") == 1  # no calibrated code: the perceptual hash alone


def test_an_uncalibrated_bundle_does_not_pretend_to_filter(resnet18: Path, tmp_path: Path) -> None:
    """Under balanced the start ends with the line that says what to do."""
    done = cloneguard("serve", "--bundle", str(resnet18), "--state", str(tmp_path), "--port", "0", "--admin-port", "0")
    assert done.returncode == 3
    assert "cloneguard calibrate" in done.stderr


def test_calibrating_teaches_a_bundle_its_own_images(tmp_path: Path, start: Callable[..., RunningServer]) -> None:
    """A bundle calibrated on blobs of colour, with ships as outliers, flags ships and lets blobs pass."""
    bundle = tmp_path / "mine"
    shutil.copytree(BUNDLED / "cifar10", bundle)
    for folder, make in (("own", smooth_noise), ("foreign", ship)):
        (tmp_path / folder).mkdir()
        for seed in range(600):
            (tmp_path / folder / f"{seed}.jpg").write_bytes(jpeg(make(seed=seed, size=32)))
    done = cloneguard(
        "calibrate", "--bundle", str(bundle), "--in-distribution", str(tmp_path / "own"), "--out-of-distribution", str(tmp_path / "foreign")
    )
    assert done.returncode == 0, done.stderr
    assert "default scorer: logistic" in done.stdout
    server = start("--bundle", str(bundle))
    for seed in range(1000, 1020):
        for make in (smooth_noise, ship):
            body = jpeg(make(seed=seed, size=32))
            httpx.post(f"{server.url}/predict", content=body, headers={"content-type": "image/jpeg"}, timeout=20)
    flagged = [record["findings"].get("ood") is not None for record in server.admin("/admin/v1/audit").json()["records"]]
    assert sum(flagged[1::2]) >= 18  # ships
    assert sum(flagged[0::2]) <= 3  # blobs


def test_too_few_images_do_not_make_a_calibration(tmp_path: Path) -> None:
    """A threshold needs images to rest on; nothing is written."""
    bundle = tmp_path / "mine"
    shutil.copytree(BUNDLED / "cifar10", bundle)
    before = (bundle / "calibration.npz").read_bytes()
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "one.jpg").write_bytes(jpeg(ship()))
    done = cloneguard("calibrate", "--bundle", str(bundle), "--in-distribution", str(tmp_path / "few"))
    assert done.returncode == 3
    assert "needs at least 500" in done.stderr
    assert (bundle / "calibration.npz").read_bytes() == before
