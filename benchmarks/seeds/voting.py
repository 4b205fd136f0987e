"""The voting attack (Kinbara et al.): ask about an image and near-duplicates of it, and believe the majority.

Everything the thief is told is the full score vector of the profile `open`. An answer is wrong when the majority's label is not what the
same pipeline says with nothing altered (the headline: what altering alone achieves). Beside it, two other yardsticks: the undefended
recognizer's majority on the same variants, which also counts labels that a founder moved in a close call, and the undefended label of
the original, which also counts variants that the recognizer itself gets wrong.

The classifier tells some altered answers by one answer alone (n = 1), because no relabelling is quite like an honest vector: no lookup
can hide that. What the lookup has to hide is what comparing n answers adds. `python -m benchmarks.seeds.alterations` compares relabellings.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.special import entr  # type: ignore[import-untyped]  # ships no types
from scipy.stats import binom  # type: ignore[import-untyped]
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from benchmarks.image_sets import Pixels
from benchmarks.seeds.fingerprints import Eyes
from benchmarks.seeds.offline import BATCH, Seen, deployment, joined
from defenses.copies import random_copies
from defenses.vocabulary import Case

Floats = NDArray[np.floating[Any]]
FOLDS = 5
RATES = (0.1, 0.3)
VARIANTS = (1, 3, 5, 7, 9)
STAGES = {"without the stage": "off", "perceptual hash only": "enforce", "both channels": "enforce"}
THIEF = "thief"


async def voting(eyes: Eyes, images: Pixels, random: np.random.Generator, *, keys: int) -> list[dict[str, Any]]:
    """One row a stage, rate and n, over images (N, 32, 32, 3), each under `keys` secrets, with the default alteration."""
    seen = with_variants(eyes, images, random)
    rows = []
    cells = [(stage, n) for stage in STAGES for n in VARIANTS]
    for stage, n in track(cells, description="voting"):
        order = np.argsort(random.random((len(images), n)), axis=1)  # of the original, 0, and its first n - 1 variants
        asked = order * len(images) + np.arange(len(images))[:, None]
        for rate in RATES:
            answers = await _answers(eyes, seen, asked.ravel(), stage=stage, rate=rate, keys=keys)
            independent = round(float(binom.sf(n // 2, n, rate)), 4)  # the paper's arithmetic
            rows.append({"stage": stage, "rate": rate, "n": n, "independent": independent} | _measured(seen, asked, order, answers))
    return rows


def with_variants(eyes: Eyes, images: Pixels, random: np.random.Generator) -> Seen:
    """The images (N, 32, 32, 3), then N near-duplicates of them, N more, and so on: what the largest of `VARIANTS` needs."""
    everything = np.concatenate([images, *(random_copies(images, random) for _ in range(max(VARIANTS) - 1))])
    return Seen(everything, eyes.bundle.infer_all(everything))


async def _answers(eyes: Eyes, seen: Seen, asked: NDArray[np.int64], *, stage: str, rate: float, keys: int) -> list[Case]:
    """The finished case of all queries with nothing altered, then one for each secret; neighbourhoods are found once."""
    altering = ("misrecognition.mode=enforce", f"misrecognition.rate={rate}", f"near_duplicates.mode={STAGES[stage]}")
    async with deployment(eyes, *altering, profile="open", with_code=stage == "both channels") as service:
        cases = []
        for start in range(0, len(asked), BATCH):
            case = seen.case(asked[start : start + BATCH], client=THIEF)
            if lookup := service.steps(b"").get("near_duplicates"):
                case = await lookup(case)
            cases.append(case)
        finished = [joined(cases)]
        for key in range(keys):
            case = finished[0]
            for name, step in service.steps(f"secret {key}".encode()).items():
                if name != "near_duplicates":
                    case = await step(case)
            finished.append(case)
    return finished


def _measured(seen: Seen, asked: NDArray[np.int64], order: NDArray[np.int64], answers: Sequence[Case]) -> dict[str, Any]:
    honest = seen.case(asked.ravel(), client=THIEF).scores.reshape(*asked.shape, -1)
    original = order.argmin(axis=1)
    people = np.arange(len(asked))
    unaltered = majority(answers[0].scores.reshape(honest.shape))
    yardsticks = {
        "wrong": unaltered,
        "wrong_against_undefended_majority": majority(honest),
        "wrong_against_original": honest[people, original].argmax(axis=1),
    }
    told = np.stack([case.scores.reshape(honest.shape) for case in answers[1:]])
    altered = np.stack([np.array([bool(r) for r in case.reasons]).reshape(asked.shape)[people, original] for case in answers[1:]])
    voted = np.stack([majority(scores) for scores in told])
    wrong = {name: round(float((voted != labels).mean()), 4) for name, labels in yardsticks.items()}
    clean = {f"{name}_at_rate_0": round(float((unaltered != labels).mean()), 4) for name, labels in yardsticks.items()}
    aucs = detectable(told, altered, original)
    comparing = [auc for way, auc in aucs.items() if way != "classifier"]
    return (
        wrong
        | clean
        | {"altered": round(float(altered.mean()), 4), "auc": max(aucs.values()), "auc_of_disagreement": max(comparing), "aucs": aucs}
    )


def majority(scores: Floats) -> NDArray[np.int64]:
    """The plurality label (N,) of answers (N, n, classes); the higher mean score decides a tie."""
    votes = np.eye(scores.shape[2])[scores.argmax(axis=2)].sum(axis=1)
    return np.asarray((votes + 1e-3 * scores.mean(axis=1)).argmax(axis=1))


def detectable(told: Floats, altered: NDArray[np.bool_], original: NDArray[np.int64]) -> dict[str, float]:
    """AUC of "was the original's answer altered?" by each way to tell, of answers (keys, N, n, classes) and truth (keys, N).

    A score that is lower for altered answers tells as much as one that is higher. The classifier is trained on groups of other images.
    """
    truth = altered.ravel()
    if truth.all() or not truth.any():
        return {"none": 0.5}
    keys, people = told.shape[:2]
    groups = told.reshape(keys * people, *told.shape[2:])
    own = np.take_along_axis(groups, np.tile(original, keys)[:, None, None], axis=1)[:, 0]
    label = own.argmax(axis=1)
    mean, spread = groups.mean(axis=1), groups.std(axis=1)
    votes = np.eye(groups.shape[2])[groups.argmax(axis=2)].mean(axis=1)
    at = np.arange(len(groups))
    ways = {
        "label vote": 1 - votes[at, label],
        "score variance": spread[at, label],
        "score entropy": entr(mean).sum(axis=1),
        "vote entropy": entr(votes).sum(axis=1),
    }
    best_two = np.sort(own, axis=1)[:, -2:]
    table = np.column_stack([own, mean, spread, votes, label, best_two, *ways.values()])
    forest = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.15, max_leaf_nodes=15, random_state=0)
    images = np.tile(np.arange(people), keys)
    if min(len(np.unique(images[truth])), len(np.unique(images[~truth]))) >= 2 * FOLDS:  # with fewer a fold may have nothing to learn
        folds = StratifiedGroupKFold(n_splits=FOLDS)
        ways["classifier"] = cross_val_predict(forest, table, truth, groups=images, cv=folds, method="predict_proba")[:, 1]
    found = {name: float(roc_auc_score(truth, score)) for name, score in ways.items()}
    return {name: round(max(auc, 1 - auc), 4) for name, auc in found.items()}
