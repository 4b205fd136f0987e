"""Consistent with cloning, or not, and how often that is wrong: a suspect beside a bank of pairs whose truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta  # type: ignore[import-untyped]  # ships no types

from defenses.clone_detection.bank import Bank, Bools, scaled
from defenses.clone_detection.choosing import EVEN, Choice, choose
from defenses.clone_detection.features import ALL, Features
from defenses.clone_detection.tree import Tree

LEVEL = 0.05
RESAMPLES = 2_000
CONFIDENCE = 0.95  # of upper bounds

Scores = NDArray[np.float64]  # (n, 2): the share of clones in a tree's leaf, and alpha, which breaks ties


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of a suspect; never a proof.

    `consistent` with cloning: the tree says clone, and at most a share `level` of the bank's independents look as much like one.
    `p_value` is that share, (1 + count) / (1 + n). `false_positive_rate` is the share of the bank's n independents that trees, which knew
    neither their architectures nor the original's, took for clones; `at_most` is its upper bound at 95% over other models, `missed` the
    share of the bank's clones that they did not. The suspect must be asked after `steps` bisection steps, as the bank was.
    """

    consistent: bool
    p_value: float
    level: float
    share: float
    false_positive_rate: float
    at_most: float
    missed: float
    independents: int
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A tree of the cross-validation, and the scores (n, 2) of the independents that it has not learned from."""

    tree: Tree
    independents: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Everything that a bank teaches: the number of steps and the tree, by cross-validation with architectures held out."""

    choice: Choice
    tree: Tree
    folds: tuple[Held, ...]
    at_most: float
    strangers: NDArray[np.float64] | None = None  # (m, 4), of the original's independents

    @classmethod
    def of(cls, bank: Bank, *, names: Sequence[str] = ALL, steps: int | None = None, original: str = "") -> Self:
        """Learn from a bank; `names` are the features to judge by: alpha and delta, where the suspect tells labels only.

        Where the bank knows independents of the `original`, suspects are judged by how far they stand from these, else by features as
        they are. `steps` keeps to one number of steps, if the suspect was asked already. Raises BankError, and RuntimeError without
        scikit-learn.
        """
        columns = [ALL.index(name) for name in names]
        clones, folds = bank.clones, bank.architectures_held_out()
        known = bank.knows(original)
        features = {k: (bank.relative(k) if known else bank.features(k))[:, columns] for k in ((steps,) if steps else bank.steps)}
        choice = choose(features, clones, folds, names=names)
        rows = features[choice.steps]
        held, said = [], np.zeros(len(clones), dtype=np.bool_)
        for learned, test in folds:
            tree = Tree.fit(rows[learned], clones[learned], names=names, depth=choice.depth)
            said[test] = tree(rows[test]) > EVEN
            held.append(Held(tree, _scores(tree, rows[test & ~clones])))
        pairs = [(row.original, row.suspect) for row, clone in zip(bank.rows, clones, strict=True) if not clone]
        bound = upper_bound(said[~clones], pairs, random=np.random.default_rng(0))
        strangers = bank.strangers(original, choice.steps) if known else None
        return cls(choice, Tree.fit(rows, clones, names=names, depth=choice.depth), tuple(held), bound, strangers)

    def placed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features (..., 4) as the judge looks at them: as they are, or in standard deviations from the original's independents."""
        return values if self.strangers is None else scaled(values, self.strangers)

    def __call__(self, features: Features, *, level: float = LEVEL) -> Verdict:
        """Judge a suspect from its features, measured after `choice.steps` steps."""
        assert set(self.tree.names) <= set(features.names), (features.names, self.tree.names)
        assert features.steps == self.choice.steps, "alpha and gamma mean something else after another number of steps"
        row = self.placed(_every(features))[None, [ALL.index(name) for name in self.tree.names]]
        share, value = float(self.tree(row)[0]), self.p_value(row)
        n, quality = sum(len(one.independents) for one in self.folds), self.choice.quality
        messages = [features.message] if features.message else []
        if level * (1 + n) < 1:
            messages.append(f"{n} independents are too few to tell anything at a level of {level:g}: the smallest p-value is 1/{1 + n}")
        return Verdict(
            consistent=share > EVEN and value <= level,
            p_value=value,
            level=level,
            share=share,
            false_positive_rate=quality.false_positive_rate,
            at_most=self.at_most,
            missed=1 - quality.true_positive_rate,
            independents=n,
            message="; ".join(messages),
        )

    def p_value(self, row: NDArray[np.float64]) -> float:
        """(1 + count) / (1 + n), where count of the n independents look at least as much like a clone as the suspect's features (1, d).

        Suspect and independent are compared under the same tree, which has learned from neither: else the independents that a tree
        knows would look too innocent (cross-conformal prediction: Vovk, 2015).
        """
        count = 0
        for held in self.folds:
            share, alpha = _scores(held.tree, row)[0]
            theirs = held.independents
            count += int(((theirs[:, 0] > share) | ((theirs[:, 0] == share) & (theirs[:, 1] >= alpha))).sum())
        return (1 + count) / (1 + sum(len(held.independents) for held in self.folds))


def upper_bound(false: Bools, pairs: Sequence[tuple[str, str]], *, random: np.random.Generator) -> float:
    """Bound the false-positive rate of other models from above, at 95%, from n pairs of independents that share models.

    Models, not pairs, are drawn with replacement: a pair counts as often as both of its models were drawn, multiplied. Where
    hardly any pair is false the bootstrap can't see how rare they are, so the bound is at least the exact one (Clopper and Pearson,
    1934) of the same share among as many trials as there are models.
    """
    assert len(false) == len(pairs) > 0, (len(false), len(pairs))
    names = sorted({name for pair in pairs for name in pair})
    at = np.array([[names.index(name) for name in pair] for pair in pairs])
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    weights = drawn[:, at[:, 0]] * drawn[:, at[:, 1]]  # (resamples, n)
    totals = weights.sum(axis=1)
    rates = (weights @ false)[totals > 0] / totals[totals > 0]
    hits = float(false.mean()) * len(names)
    exact = 1.0 if hits >= len(names) else float(beta.ppf(CONFIDENCE, hits + 1, len(names) - hits))
    return max(exact, float(np.quantile(rates, CONFIDENCE)) if len(rates) else 1.0)


def _every(features: Features) -> NDArray[np.float64]:
    """(4,); NaN for what was not told, which no tree looks at."""
    return np.array([np.nan if one is None else one.value for one in (getattr(features, name) for name in ALL)])


def _scores(tree: Tree, rows: NDArray[np.float64]) -> Scores:
    return np.column_stack((tree(rows), rows[:, 0]))
