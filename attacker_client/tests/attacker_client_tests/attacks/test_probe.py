"""The thief's reconnaissance against endpoints that each do one thing."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attacker_client.attacks.probe import Probe
from attacker_client.errors import Unanswered
from attacker_client.transfer_set import Images, TransferSet
from attacker_client_tests.attacks.scenes import Recognizer, ScriptedBuyer, by_colour, scene

pytestmark = pytest.mark.anyio


def smooth(images: Images) -> NDArray[np.float32]:
    """The colour recognizer, that says red where it sees no colour: nonsense looks all alike to it."""
    scores = by_colour(images) * np.array([20, 1, 1, 1], np.float32)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def rounding(images: Images) -> NDArray[np.float32]:
    """Scores of two decimals."""
    return smooth(images).round(2)


def altered(images: Images, *, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A keyed other class for the chosen images, by their pixels."""
    scores = smooth(images)
    for row in np.flatnonzero(chosen):
        scores[row] = np.roll(scores[row], 1 + hashlib.sha256(images[row].tobytes()).digest()[0] % 3)
    return scores


def flipping(images: Images) -> NDArray[np.float32]:
    """A fifth of all pixel patterns get another label."""
    return altered(images, chosen=np.array([hashlib.sha256(b"coin" + image.tobytes()).digest()[0] < 51 for image in images]))


def guarding(images: Images) -> NDArray[np.float32]:
    """Images without a colour are nonsense, and get labels that hang on their pixels."""
    colour = np.ptp(images.astype(np.float32).mean(axis=(1, 2)), axis=1)
    scores = smooth(images)
    for row in np.flatnonzero(colour < 6):
        label = hashlib.sha256(images[row].tobytes()).digest()[0] % 4
        scores[row] = np.where(np.arange(4) == label, 0.94, 0.02)
    return scores


def replaying(images: Images) -> NDArray[np.float32]:
    """Near-duplicates are joined by their coarse colours to one answer."""
    return smooth((images // 64 * 64 + 32).mean(axis=(1, 2), keepdims=True).round(-1).astype(np.uint8) + np.zeros_like(images))


async def findings(
    checkpoints: Path, recognizer: Recognizer = smooth, *, budget: int = 1000, tells: Any = "scores", queries: int = 300
) -> dict[str, Any]:
    buyer = ScriptedBuyer(recognizer, budget=budget, tells=tells)
    stage = scene(buyer, checkpoints)
    assert await Probe(queries)(stage) is None  # type: ignore[func-returns-value]
    stage.findings["spent"] = budget - buyer.left
    return stage.findings


async def test_full_scores_are_learned_softly(tmp_path: Path) -> None:
    """An open endpoint tells all classes to many decimals, contradicts itself nowhere, and is simply asked."""
    found = await findings(tmp_path)
    assert found["probe"]["answers"] | {"queries": 0, "sum": 1.0} == {
        "queries": 0, "classes": 4, "entries": 4, "scores": True, "full": True, "decimals": 6, "sum": 1.0,
    }  # fmt: skip
    assert found["probe"]["answers"]["sum"] == pytest.approx(1)
    assert found["probe"]["one_level"]["flips"] == 0
    assert found["recommended"] == "knockoff-random"


async def test_rounding_is_seen(tmp_path: Path) -> None:
    """Two decimals are two decimals."""
    found = await findings(tmp_path, rounding)
    assert found["probe"]["answers"]["decimals"] == 2
    assert any("2 decimals" in line for line in found["advice"])


async def test_the_number_of_entries_is_seen(tmp_path: Path) -> None:
    """Three of four classes are told."""
    found = await findings(tmp_path, tells=3)
    assert found["probe"]["answers"]["entries"] == 3 and not found["probe"]["answers"]["full"]


async def test_labels_alone_are_asked_for_mixtures(tmp_path: Path) -> None:
    """Without scores and without alterations, composites are the best there is."""
    found = await findings(tmp_path, tells="labels")
    assert not found["probe"]["answers"]["scores"] and found["recommended"] == "composite"


@pytest.mark.parametrize("tells", ["scores", "labels"])
async def test_answers_altered_at_random_are_voted_away(tells: str, tmp_path: Path) -> None:
    """Contradictions between images that differ by one level give it away, and about how many."""
    found = await findings(tmp_path, flipping, tells=tells)
    assert found["probe"]["one_level"]["flips"] > 0.1
    assert found["recommended"] == "voting:knockoff-random"


async def test_altered_answers_to_nonsense_are_seen(tmp_path: Path) -> None:
    """One kind of nonsense with many labels is no smooth recognizer's."""
    found = await findings(tmp_path, guarding)
    assert max(found["probe"]["nonsense"][kind]["variety"] for kind in ("noise", "plain", "checkerboard")) > 0.7
    assert found["recommended"] == "complementary:knockoff-random"


async def test_replayed_answers_are_seen(tmp_path: Path) -> None:
    """Scores that are the same to the last digit for other pixels are said to be replayed."""
    found = await findings(tmp_path, replaying)
    assert found["probe"]["one_level"]["same_scores"] > 0.5
    assert any("replayed" in line for line in found["advice"])


@pytest.mark.parametrize("budget", [1, 7, 60, 300, 1000])
async def test_it_asks_no_more_than_it_may(budget: int, tmp_path: Path) -> None:
    """At most 300 queries, and no more than the budget pays for."""
    assert 0 < (await findings(tmp_path, budget=budget))["spent"] <= min(budget, 300)


@pytest.mark.parametrize("queries", [1, 2, 12, 50, 299])
async def test_it_asks_no_more_than_it_says(queries: int, tmp_path: Path) -> None:
    """Few queries are not more because there are many kinds of them, and what it reports to have asked it did."""
    found = await findings(tmp_path, queries=queries)
    assert 0.8 * queries <= found["probe"]["answers"]["queries"] <= queries
    assert found["spent"] <= queries


async def test_silence_is_an_error_in_words(tmp_path: Path) -> None:
    """Where no image gets an answer there is nothing to tell."""

    class Silent(ScriptedBuyer):
        async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:
            bought = await super().buy(images, identities=identities)
            return replace(bought, weights=np.zeros_like(bought.weights))

    with pytest.raises(Unanswered, match="no image"):
        await Probe()(scene(Silent(smooth, budget=60), tmp_path))
