"""Fitting the papers' filter: the one part that needs scikit-learn, and only offline."""

import numpy as np

from defenses.vocabulary import Floats

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C: the inverse of the L2 strength
FOLDS = 10
SEARCH_CAP = 3_000  # images of each side that choose the strength; the final fit uses all of them


def fit_logistic_regression(inside: Floats, outside: Floats) -> tuple[Floats, Floats]:
    """Separate foreign features from own ones, (n, d) each, by weights (d,) and a bias (): positive is foreign.

    LBFGS, L2, strength by 10-fold cross-validation (Atli et al., 2020). The two sides weigh the same however many
    images they have. Standardising is folded into the weights. Raises RuntimeError where scikit-learn is absent.
    """
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - never imported by the server
        from sklearn.model_selection import GridSearchCV, StratifiedKFold  # noqa: PLC0415
    except ImportError as error:
        raise RuntimeError("fitting the logistic filter needs scikit-learn: pip install 'cloneguard[calibrate]'") from error

    features = np.concatenate([inside, outside]).astype(np.float32)
    foreign = np.repeat([0, 1], [len(inside), len(outside)])
    mean, scale = features.mean(axis=0), features.std(axis=0)
    # a feature that never moves in training says nothing; its tiny spread must not turn it into a loud one
    scale = np.maximum(scale, 1e-2 * scale.mean() + 1e-12)
    features = (features - mean) / scale

    classifier = LogisticRegression(class_weight="balanced", max_iter=500, tol=1e-3)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(classifier, {"C": STRENGTHS}, scoring="roc_auc", cv=folds, refit=False)
    random = np.random.default_rng(0)
    rows = np.concatenate([random.permutation(np.flatnonzero(foreign == side))[:SEARCH_CAP] for side in (0, 1)])
    search.fit(features[rows], foreign[rows])
    classifier.set_params(**search.best_params_).fit(features, foreign)

    weights = classifier.coef_[0] / scale
    return weights.astype(np.float32), np.array(classifier.intercept_[0] - mean @ weights, dtype=np.float32)
