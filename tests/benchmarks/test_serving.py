"""The benchmark's arithmetic and its bodies."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.images import request_bodies, smooth_images
from benchmarks.serving import RAW, ratios


def test_ratios_are_taken_within_a_round() -> None:
    """A round twice as fast for both sides changes no ratio; the raw loop is the limit at every concurrency."""
    rates = {("open", 1): 100.0, ("balanced", 1): 80.0, ("plain fp32", 1): 40.0, (RAW, None): 400.0}
    rows = [
        {"service": service, "concurrency": clients, "round": n, "rate": rate * speed}
        for n, speed in enumerate((1.0, 2.0))
        for (service, clients), rate in rates.items()
    ]
    found = {row["ratio"]: (row["median"], row["min"], row["max"]) for row in ratios(rows, concurrency=[1])}
    assert found == {"balanced / plain fp32": (2.0,) * 3, "balanced / open": (0.8,) * 3, f"open / {RAW}": (0.25,) * 3}


def test_ratios_keep_their_spread() -> None:
    """Median, least and most are of the rounds' ratios, not of their rates."""
    rows = [
        {"service": service, "concurrency": 16, "round": n, "rate": rate}
        for n, pair in enumerate(((10.0, 20.0), (30.0, 20.0), (20.0, 20.0)))
        for service, rate in zip(("balanced", "open"), pair, strict=True)
    ]
    (found,) = ratios(rows, concurrency=[16])
    assert (found["median"], found["min"], found["max"], found["rounds"]) == (1.0, 0.5, 1.5, [0.5, 1.5, 1.0])


def test_generated_bodies_repeat_by_seed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed makes the same bodies, another seed others, and none twice; each is a JPEG that decodes."""
    monkeypatch.delenv("CLONEGUARD_DATA", raising=False)
    bodies = request_bodies(count=300, seed=3)
    assert bodies.images == smooth_images(count=300, seed=3)
    assert not set(bodies.images) & set(smooth_images(count=300, seed=4))
    assert len(set(bodies.images)) == 300
    pixels = [np.asarray(Image.open(io.BytesIO(body))) for body in bodies.images[:5]]
    assert all(image.shape == (32, 32, 3) and image.std() > 10 for image in pixels)


def test_data_folder_without_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A data folder that was named and is empty is an error, not a silent change of bodies."""
    monkeypatch.setenv("CLONEGUARD_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="CLONEGUARD_DATA"):
        request_bodies(count=1, seed=0)
