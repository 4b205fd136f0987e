"""What the defences cost is counted from real answers of real servers."""

from pathlib import Path

import pytest

from benchmarks.answers import Answered
from benchmarks.utility import measure, row, table
from tests.pictures import jpeg, ship, smooth_noise

SHIPS, NOBODY = 12, 12


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Drawn ships, which the bundled recognizer knows, and blobs that nobody knows, in folders that name their class."""
    pictures = {f"ship/{seed}.jpg": ship(seed=seed, size=32) for seed in range(SHIPS)}
    pictures |= {f"nothing/{seed}.jpg": smooth_noise(seed=seed) for seed in range(NOBODY)}
    for name, picture in pictures.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture))
    return sorted((tmp_path / "images").rglob("*.jpg"))


def test_costs_of_real_profiles(files: list[Path], tmp_path: Path) -> None:
    """`open` alters nothing; what `balanced` says it altered is what has another label, and it alters what nobody knows."""
    opened, balanced = measure("cifar10", files, tmp_path, profiles=("open", "balanced"))
    assert opened["altered"]["all"] == opened["other_label_than_open"] == 0
    assert opened["latency"]["p50"]["to_open"] == 1
    assert opened["latency"]["added_ms_median"] == 0
    assert 0 < opened["top1"] <= SHIPS / len(files)
    assert balanced["altered"]["ood"] > 0
    assert balanced["altered"]["all"] == pytest.approx(balanced["other_label_than_open"])
    assert balanced["latency"]["p50"]["ms"] <= balanced["latency"]["p99"]["ms"]


def test_figures_are_paired() -> None:
    """A server that takes twice as long for every image is twice as slow at every percentile; losses are of the same images."""
    truth = ["ship", "cat", "dog", "frog"]
    answers = {
        "open": [Answered(label, 0.001 * (number + 1)) for number, label in enumerate(("ship", "cat", "dog", "ship"))],
        "strict": [Answered(label, 0.002 * (number + 1)) for number, label in enumerate(("ship", "cat", "cat", "ship"))],
    }
    reasons = {"ood": 0.25, "rate": 0.0, "suspicion": 0.0, "watermark": 0.0}
    opened = row("open", answers, dict.fromkeys(reasons, 0.0), truth, reference="open")
    strict = row("strict", answers, reasons, truth, reference="open")
    assert (opened["top1"], strict["top1"], strict["other_label_than_open"]) == (0.75, 0.5, 0.25)
    assert strict["altered"] == {"all": 0.25, **reasons}
    assert strict["latency"]["p50"]["to_open"] == pytest.approx(2)
    assert strict["latency"]["p99"]["to_open"] == pytest.approx(2)
    assert strict["latency"]["added_ms_median"] == pytest.approx(3.5)  # of the second half: the first one warms up
    assert table("any", [opened, strict]).row_count == 2
