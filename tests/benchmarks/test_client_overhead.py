"""Both sides of the comparison ask a real server about as much, and nothing is lost."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.client_overhead import TITLES, one_round, pixels, table
from tests.server import RunningServer


def test_both_sides_are_answered(start: Callable[..., RunningServer]) -> None:
    """Every image is bought and every raw request answered; the overhead is the ratio of the two times a query."""
    server = start("--profile", "open")
    row = one_round(server, 0, images=100, concurrency=8)
    assert (row["client_answered"], row["raw_not_answered"]) == (100, 0)
    assert row["overhead"] == pytest.approx(row["client_microseconds"] / row["raw_microseconds"] - 1)
    assert row["client_cpu_microseconds"] > 0 < row["server_cpu_microseconds"]
    assert table({name: {"median": 1.0, "min": 0.5, "max": 2.0} for name in TITLES}).row_count == len(TITLES)


def test_images_differ() -> None:
    """No image comes twice, in one round or in the next, and the same seed makes the same ones."""
    images = np.concatenate([pixels(50, seed=0), pixels(50, seed=1)])
    assert images.shape == (100, 32, 32, 3)
    assert len({image.tobytes() for image in images}) == 100
    assert (pixels(50, seed=0) == images[:50]).all()
