"""The three divisions of the pairs into a half that trains the tree and a half that tests it (Mori et al., Table II).

The paper doesn't say which pairs are in which half. Ours: the four kinds of recognizers are cut into two and two, in all three ways, and
each half learns and tests in turn. In (I) and (II) models of the tested pairs were in other pairs that the tree learned from.

    (I)    by the original's kind: the tree is tested on originals of kinds that it has not learned from
    (II)   by the suspect's kind, likewise; no clone is an SVM, so halves have clones of one kind or of two
    (III)  by both: learned from are pairs with original and suspect in the one half, tested are those with both in the other;
           pairs in between are not used

Counted are the decisions of all folds together: every pair of a division is tested equally often, so there are two clones to an
independent, as in the paper, where "always clone" is right for 66.7%. The paper's column (III) can't be counted in any such way: no
whole numbers of 24 clones and 12 independents give its precision, recall and accuracy together.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any, Literal

import numpy as np

from benchmarks.seeds.mori_pairs import Pair
from benchmarks.seeds.mori_recognizers import KINDS
from defenses.clone_detection.bank import Bools, Folds
from defenses.clone_detection.choosing import EVEN, Quality, choose
from defenses.clone_detection.features import NAMES
from defenses.clone_detection.tree import Tree

Division = Literal["I", "II", "III"]
PAPER: dict[Division, dict[str, float]] = {
    "I": {"precision": 0.955, "recall": 0.875, "accuracy": 0.889},
    "II": {"precision": 0.909, "recall": 0.833, "accuracy": 0.833},
    "III": {"precision": 0.864, "recall": 0.792, "accuracy": 0.806},
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One division of one seed's pairs: decisions of all folds together, and what the training halves chose."""

    division: Division
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int
    auc: float  # of the mean share of clones that a pair was given
    steps: dict[int, int]  # how many folds chose a number of steps
    depths: dict[int, int]
    wrong: dict[str, float]  # by the pair's name: the share of the decisions on it that are wrong, where there are such

    @property
    def precision(self) -> float:
        """NaN where nothing was called a clone."""
        called = self.true_positives + self.false_positives
        return self.true_positives / called if called else float("nan")

    @property
    def recall(self) -> float:
        """Of the clones."""
        return self.true_positives / (self.true_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float:
        """Of the independents."""
        return self.false_positives / (self.false_positives + self.true_negatives)

    @property
    def accuracy(self) -> float:
        """Of all decisions."""
        wrong = self.false_negatives + self.false_positives
        return 1 - wrong / (wrong + self.true_positives + self.true_negatives)

    @property
    def balanced_accuracy(self) -> float:
        """Half for calling everything a clone."""
        return (self.recall + 1 - self.false_positive_rate) / 2

    def to_json(self) -> dict[str, Any]:
        """Counts and rates."""
        rates = ("precision", "recall", "accuracy", "balanced_accuracy", "false_positive_rate")
        return asdict(self) | {name: getattr(self, name) for name in rates}


def evaluate(pairs: Sequence[Pair], division: Division, *, steps: Sequence[int], names: Sequence[str] = NAMES) -> Figures:
    """Test every fold's tree; `steps` are the numbers to choose from, by cross-validation within the half that trains."""
    clones = np.array([pair.clone for pair in pairs])
    columns = [NAMES.index(name) for name in names]
    features = {k: np.array([pair.features[k] for pair in pairs])[:, columns] for k in steps}
    counts: Counter[tuple[bool, bool]] = Counter()
    chosen_steps, chosen_depths, wrong = Counter[int](), Counter[int](), Counter[str]()
    total, times = np.zeros(len(pairs)), np.zeros(len(pairs))
    for learned, test in folds(pairs, division):
        half = [pair for pair, used in zip(pairs, learned, strict=True) if used]
        choice = choose({k: rows[learned] for k, rows in features.items()}, clones[learned], originals_held_out(half), names=names)
        rows = features[choice.steps]
        shares = Tree.fit(rows[learned], clones[learned], names=names, depth=choice.depth)(rows[test])
        said = shares > EVEN
        counts.update(zip(clones[test].tolist(), said.tolist(), strict=True))
        wrong.update(pairs[i].name for i in np.flatnonzero(test)[said != clones[test]])
        chosen_steps[choice.steps] += 1
        chosen_depths[choice.depth] += 1
        total[test] += shares
        times[test] += 1
    assert (times == times[0]).all(), "every pair is tested equally often"
    return Figures(
        division=division,
        true_positives=counts[True, True],
        false_negatives=counts[True, False],
        false_positives=counts[False, True],
        true_negatives=counts[False, False],
        auc=Quality.of(total / times, clones).auc,
        steps=dict(sorted(chosen_steps.items())),
        depths=dict(sorted(chosen_depths.items())),
        wrong={name: number / float(times[0]) for name, number in wrong.most_common()},
    )


def folds(pairs: Sequence[Pair], division: Division) -> Folds:
    """Rows to learn from and rows to test, for every way to halve the kinds."""
    halves = [set(half) for half in combinations(KINDS, 2)]
    everything = [set(KINDS)]
    by_original = everything if division == "II" else halves
    by_suspect = everything if division == "I" else halves
    made = []
    for originals, suspects in product(by_original, by_suspect):
        other_originals = set(KINDS) - originals or originals
        other_suspects = set(KINDS) - suspects or suspects
        made.append((_of(pairs, originals, suspects), _of(pairs, other_originals, other_suspects)))
    return made


def originals_held_out(pairs: Sequence[Pair]) -> Folds:
    """Within the half that trains: each kind of original is tested by a tree that learned from the other kinds."""
    kinds = np.array([pair.which.original for pair in pairs])
    return [(kinds != kind, kinds == kind) for kind in sorted(set(kinds.tolist()))]


def _of(pairs: Sequence[Pair], originals: set[Any], suspects: set[Any]) -> Bools:
    return np.array([pair.which.original in originals and pair.which.suspect in suspects for pair in pairs], dtype=np.bool_)
