"""The tables of near-duplicate detection, and the voting and poisoning attacks, on pictures that we make ourselves."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.seeds import kinbara
from benchmarks.seeds.near_duplicate_recall import TWO_COPIES
from benchmarks.seeds.voting import detectable, majority
from defenses.copies import TRANSFORMS
from defenses.true_duplicates import aligned_correlation
from tests.pictures import smooth_noise


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with every set that the benchmark reads, small, each picture its own; GTSRB's frames of a track are alike."""
    root = tmp_path_factory.mktemp("data")
    seeds = iter(range(10_000))

    def save(path: Path, *, picture: Image.Image | None = None, size: int = 32) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        (picture or smooth_noise(seed=next(seeds), size=size)).save(path, quality=75)

    for name in ("cat", "ship"):
        for at in range(60):
            save(root / "cifar10" / "test" / name / f"{at}.jpg")
            save(root / "cifar10" / "train" / name / f"{at}.jpg")
    for kind in range(44):
        for at in range(3):
            save(root / "tiny-imagenet-32" / "train" / f"n{kind:08}" / f"{at}.jpg")
    for track in range(12):
        picture = smooth_noise(seed=next(seeds), size=35)
        for frame in range(3):
            save(root / "gtsrb" / "train" / f"{track % 2:05}" / f"{track:05}_{frame:05}.jpg", picture=picture)
    for at in range(4):
        save(root / "photos" / f"{at}.JPEG", size=96)
    return root


def test_quick_run_fills_every_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command gives recall, merges by kind, both attacks, the recipe and the contact sheets."""
    monkeypatch.setenv("CLONEGUARD_DATA", str(data))
    out = tmp_path / "kinbara.json"
    kinbara.main(["--quick", "--bundle", "cifar10", "--out", str(out), "--pairs", str(tmp_path / "pairs")])
    found = json.loads(out.read_text())
    tables = found["tables"]["cifar10"]
    assert {"commit", "hardware", "seed"} <= found.keys() and len(tables) == len(list((tmp_path / "pairs").glob("*.png"))) == 4
    for entry in tables.values():
        assert set(TRANSFORMS) | {"two in a row", "three in a row", TWO_COPIES} <= entry["recall"].keys()
        for share in entry["recall"].values():
            assert max(share["perceptual"], share["embedding"]) <= share["either"] <= 1
    assert tables["CIFAR-10"]["recall"]["brightness"]["either"] > 0.9
    # the frames of a track are one picture here: every frame meets another of its track
    assert tables["GTSRB"]["merges"]["either"]["same group"] == 10_000
    assert tables["CIFAR-10"]["merges"]["either"]["same group"] == 0
    votes = {(row["stage"], row["rate"], row["n"]): row for row in found["voting"]}
    alone, together = votes["without the stage", 0.3, 9], votes["both channels", 0.3, 9]
    assert alone["wrong"] < together["wrong"]
    assert {row["thief"] for row in found["poisoning"]} == {"by answers", "with the bundle"}
    assert all(row["queries"] <= 2 * row["targets"] for row in found["poisoning"])


def test_majority_counts_votes_before_scores() -> None:
    """Two votes beat one that is surer; between equal votes the scores decide."""
    sure, unsure = [0.05, 0.95], [0.6, 0.4]
    assert majority(np.array([[unsure, unsure, sure], [unsure, sure, [0.0, 0.0]]])[:1]).tolist() == [0]
    assert majority(np.array([[unsure, sure]])).tolist() == [1]


def test_what_gives_itself_away_is_found() -> None:
    """Where altered answers disagree with their variants the AUC is high; where all variants are altered alike it is not."""
    random = np.random.default_rng(0)
    label, altered = random.integers(0, 4, 200), random.random((1, 200)) < 0.3
    honest = np.eye(4)[label][:, None].repeat(3, axis=1)
    one_altered, all_altered = honest.copy(), honest.copy()
    moved = np.eye(4)[(label + random.integers(1, 4, 200)) % 4]
    one_altered[altered[0], 0] = moved[altered[0]]
    all_altered[altered[0]] = moved[altered[0]][:, None]
    original = np.zeros(200, dtype=np.int64)
    assert max(detectable(one_altered[None], altered, original).values()) == 1
    assert max(detectable(all_altered[None], altered, original).values()) < 0.65


def test_alignment_finds_moved_and_mirrored_pictures() -> None:
    """A shifted or mirrored picture correlates with itself, another does not."""
    one, other = (np.asarray(smooth_noise(seed=seed)) for seed in (0, 1))
    assert aligned_correlation(one, np.roll(one, 3, axis=1)) > 0.99
    assert aligned_correlation(one, one[:, ::-1]) > 0.99
    assert aligned_correlation(one, other) < 0.8
