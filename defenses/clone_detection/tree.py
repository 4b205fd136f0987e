"""A decision tree as plain numbers: grown by scikit-learn where that is installed, read and asked without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

LEAF = -1  # instead of a feature


class TreeError(ValueError):
    """What was read is no tree."""


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Says how likely a pair is one of original and clone, from its features (Mori, Nakamura, Nitta, Babaguchi).

    `names` are the features, in their order. Of each of m nodes, all (m,): the row's `feature`, or -1 at a leaf; the `threshold`, up to
    which, inclusively, it goes `left`, and else `right` (children have higher numbers); the share of
    `clones` among the pairs that came here.
    """

    names: tuple[str, ...]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    clones: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.float64], clones: NDArray[np.bool_], *, names: Sequence[str], depth: int, least: int = 1) -> Self:
        """Grow a tree on pairs: `features` (n, len(names)), `clones` (n,) of both kinds.

        At most `depth` deep, with at least `least` pairs a leaf, by Gini's impurity; every pair weighs the same. Raises RuntimeError where
        scikit-learn is absent, ValueError without pairs of both kinds.
        """
        assert features.shape == (len(clones), len(names)), (features.shape, len(clones), names)
        if clones.all() or not clones.any():
            raise ValueError(f"a tree needs clones and independents, not {len(clones)} pairs of one kind")
        try:
            from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415 - never imported by the server
        except ImportError as error:
            raise RuntimeError("growing a tree needs scikit-learn: pip install 'cloneguard[calibrate]'") from error
        grown = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=least, random_state=0).fit(_rounded(features), clones).tree_
        shares = grown.value[:, 0, 1] / grown.value[:, 0].sum(axis=1)
        feature = np.where(grown.children_left == LEAF, LEAF, grown.feature)
        arrays = (feature.astype(np.int64), grown.threshold, grown.children_left.astype(np.int64), grown.children_right.astype(np.int64))
        return cls(tuple(names), *arrays, shares)

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of clones (n,) in the leaves that `features` (n, len(names)) come to."""
        assert features.ndim == 2 and features.shape[1] == len(self.names), (features.shape, self.names)
        given, every = _rounded(features), np.arange(len(features))
        node = np.zeros(len(features), dtype=np.int64)
        while (inner := self.feature[node] != LEAF).any():
            goes_left = given[every, self.feature[node]] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)
        return self.clones[node]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        arrays = {name: getattr(self, name).tolist() for name in ("feature", "threshold", "left", "right", "clones")}
        return {"names": list(self.names), **arrays}

    @classmethod
    def from_json(cls, page: Mapping[str, Any]) -> Self:
        """Undo `to_json`. Raises TreeError for anything else."""
        try:
            names = tuple(str(name) for name in page["names"])
            feature, left, right = (np.array(page[name], dtype=np.int64) for name in ("feature", "left", "right"))
            threshold, clones = (np.array(page[name], dtype=np.float64) for name in ("threshold", "clones"))
        except (KeyError, TypeError, ValueError) as error:
            raise TreeError(f"no tree: {error}") from error
        nodes, inner = np.arange(len(feature)), feature != LEAF
        shaped = len(nodes) > 0 and all(array.shape == nodes.shape for array in (feature, threshold, left, right, clones))
        if not shaped or not ((feature[inner] >= 0) & (feature[inner] < len(names))).all():
            raise TreeError("no tree: its arrays do not fit each other")
        # children come after their parents: no walk is endless
        if any(((child[inner] <= nodes[inner]) | (child[inner] >= len(nodes))).any() for child in (left, right)):
            raise TreeError("no tree: a child that does not come after its parent")
        return cls(names, feature, threshold, left, right, clones)


def _rounded(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """What scikit-learn compares with thresholds: a value on one must fall to the same side here."""
    return features.astype(np.float32)
