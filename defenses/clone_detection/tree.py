"""A decision tree over the features of pairs, grown and asked with scikit-learn, which the server never imports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Says how likely a pair is one of original and clone, from its features (Mori, Nakamura, Nitta, Babaguchi).

    `names` are the features, in their order; `grown` is scikit-learn's tree.
    """

    names: tuple[str, ...]
    grown: Any

    @classmethod
    def fit(cls, features: NDArray[np.float64], clones: NDArray[np.bool_], *, names: Sequence[str], depth: int) -> Self:
        """Grow a tree on pairs: `features` (n, len(names)), `clones` (n,) of both kinds.

        At most `depth` deep, by Gini's impurity; every pair weighs the same. Raises RuntimeError where scikit-learn is absent, ValueError
        without pairs of both kinds.
        """
        assert features.shape == (len(clones), len(names)), (features.shape, len(clones), names)
        if clones.all() or not clones.any():
            raise ValueError(f"a tree needs clones and independents, not {len(clones)} pairs of one kind")
        try:
            from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415 - never imported by the server
        except ImportError as error:
            raise RuntimeError("growing a tree needs scikit-learn: pip install 'cloneguard[calibrate]'") from error
        return cls(tuple(names), DecisionTreeClassifier(max_depth=depth, random_state=0).fit(features, clones))

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of clones (n,) in the leaves that `features` (n, len(names)) come to."""
        assert features.ndim == 2 and features.shape[1] == len(self.names), (features.shape, self.names)
        if not len(features):
            return np.zeros(0)  # scikit-learn refuses to be asked about nothing
        shares: NDArray[np.float64] = self.grown.predict_proba(features)[:, 1]
        return shares
