"""F9: recognizers that can't be served."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from models import manifest
from models.bundle import BUNDLED
from tests.abuse import FULL
from tests.server import free_port


def absent(bundle: Path) -> None:
    """No directory at all."""
    shutil.rmtree(bundle)


def no_manifest(bundle: Path) -> None:
    """A directory without bundle.json."""
    (bundle / "bundle.json").unlink()


def no_model(bundle: Path) -> None:
    """bundle.json names a file that is not there."""
    model_file(bundle).unlink()


def changed_model(bundle: Path) -> None:
    """One bit is not what it was."""
    data = bytearray(model_file(bundle).read_bytes())
    data[len(data) // 2] ^= 1
    model_file(bundle).write_bytes(data)


def truncated_manifest(bundle: Path) -> None:
    """Half of bundle.json."""
    path = bundle / "bundle.json"
    path.write_bytes(path.read_bytes()[:200])


def truncated_model(bundle: Path) -> None:
    """Half of the model, under a fitting checksum."""
    path = model_file(bundle)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    sign(bundle, path)


def wrong_labels(bundle: Path) -> None:
    """More labels than the model has classes."""
    path = bundle / "bundle.json"
    document = json.loads(path.read_text())
    document["labels"].append("one more")
    path.write_text(json.dumps(document))


def wrong_size(bundle: Path) -> None:
    """A calibration for vectors of another length, under a fitting checksum."""
    path = bundle / "calibration.npz"
    with np.load(path, allow_pickle=False) as arrays:
        halves = {name: array[: max(1, len(array) // 2)] if array.ndim else array for name, array in arrays.items()}
    np.savez(path, **halves)
    sign(bundle, path)


def no_calibration(bundle: Path) -> None:
    """An empty calibration, under a fitting checksum."""
    (bundle / "calibration.npz").write_bytes(b"")
    sign(bundle, bundle / "calibration.npz")


DAMAGES: tuple[Callable[[Path], None], ...] = (
    truncated_model, wrong_labels, absent, changed_model,
    no_manifest, no_model, truncated_manifest, wrong_size, no_calibration,
)  # fmt: skip


def model_file(bundle: Path) -> Path:
    """The model that is served on a CPU."""
    page = manifest.load(bundle)
    return bundle / page.models[page.default_precision["cpu"]]


def sign(bundle: Path, path: Path) -> None:
    """Make bundle.json agree with a changed file."""
    manifest.load(bundle).with_file(path).save(bundle)


@pytest.mark.abuse
@pytest.mark.parametrize("damage", DAMAGES if FULL else DAMAGES[:2], ids=lambda damage: damage.__name__)
def test_an_unusable_bundle_ends_the_server_with_one_line(
    tmp_path: Path, damage: Callable[[Path], None], figure: Callable[..., None]
) -> None:
    """Exit code 3 and one line on stderr, within 5 s (full length only); it never says that it is ready."""
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLED / "cifar10", bundle)
    damage(bundle)
    port = free_port()
    ports = ["--port", str(port), "--admin-port", "0"]
    command = [sys.executable, "-m", "app", "serve", *ports, "--bundle", str(bundle), "--state", str(tmp_path / "state")]
    started, was_ready = time.monotonic(), False
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not was_ready and time.monotonic() < started + 60:
        was_ready = is_ready(port)
        time.sleep(0.02)
    seconds = time.monotonic() - started
    process.kill()
    _, errors = process.communicate()
    assert not was_ready
    assert process.returncode == 3, errors
    assert len(errors.strip().splitlines()) == 1, errors
    assert errors.startswith("cloneguard: ")
    figure(f"{damage.__name__} {seconds:.1f} s", met=seconds <= 5)


def is_ready(port: int) -> bool:
    """Whether somebody answers there that a model is loaded."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
