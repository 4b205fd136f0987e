"""One contract for all scorers."""

import importlib.util
import sys

import numpy as np
import pytest

from defenses.out_of_distribution.scorers import SCORERS, Outputs, Scorer, ScorerName

CLASSES, WIDTH = 5, 24
CENTRES = np.random.default_rng(0).normal(0, 4, (CLASSES, WIDTH)).astype(np.float32)


def own(n: int, *, seed: int) -> tuple[Outputs, np.ndarray]:
    """Images of known classes: features around their class's centre, a sure logit."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLASSES, n)
    features = CENTRES[classes] + random.normal(0, 1, (n, WIDTH))
    logits = random.normal(0, 1, (n, CLASSES)) + 8 * np.eye(CLASSES)[classes]
    return Outputs(logits.astype(np.float32), features.astype(np.float32)), classes


def foreign(n: int, *, seed: int) -> Outputs:
    """Images of no known class: features far from all centres, logits that agree on nothing."""
    random = np.random.default_rng(seed)
    far = np.random.default_rng(1).normal(0, 8, WIDTH)
    logits = random.normal(0, 1, (n, CLASSES))
    return Outputs(logits.astype(np.float32), (far + random.normal(0, 1, (n, WIDTH))).astype(np.float32))


def fitted(name: ScorerName) -> Scorer:
    if name == "logistic":
        pytest.importorskip("sklearn")
    inside, classes = own(400, seed=2)
    return SCORERS[name].fit(inside, classes, outside=foreign(300, seed=3))


def score(scorer: Scorer, outputs: Outputs) -> np.ndarray:
    return scorer(logits=outputs.logits, features=outputs.features)


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_scores_are_one_float32_a_query(name: ScorerName, n: int) -> None:
    """However many queries: shape (n,), float32, finite."""
    scores = score(fitted(name), own(n, seed=4)[0])
    assert scores.shape == (n,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", SCORERS)
def test_foreign_images_score_higher(name: ScorerName) -> None:
    """Higher is more out-of-distribution, for every scorer."""
    scorer = fitted(name)
    inside, outside = score(scorer, own(200, seed=5)[0]), score(scorer, foreign(200, seed=6))
    assert (outside > np.quantile(inside, 0.95)).mean() > 0.95


@pytest.mark.parametrize("name", SCORERS)
def test_a_query_scores_the_same_in_any_batch(name: ScorerName) -> None:
    """A score depends on its own query only."""
    scorer, queries = fitted(name), own(20, seed=7)[0]
    alone = [score(scorer, Outputs(queries.logits[i : i + 1], queries.features[i : i + 1]))[0] for i in range(20)]
    np.testing.assert_allclose(score(scorer, queries), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SCORERS)
def test_arrays_say_everything(name: ScorerName) -> None:
    """A scorer rebuilt from its arrays scores alike, bit for bit."""
    scorer, queries = fitted(name), own(30, seed=8)[0]
    again = SCORERS[name].from_arrays(scorer.arrays())
    np.testing.assert_array_equal(score(again, queries), score(scorer, queries))


@pytest.mark.parametrize("name", SCORERS)
def test_extreme_outputs_do_not_overflow(name: ScorerName) -> None:
    """Huge logits and all-zero features give a number, not a warning."""
    logits = np.array([[1e4, -1e4, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=np.float32)
    assert np.isfinite(fitted(name)(logits=logits, features=np.zeros((2, WIDTH), np.float32))).all()


def test_dead_features_do_not_blind_the_distances() -> None:
    """A feature that is always zero changes no Mahalanobis decision."""
    inside, classes = own(400, seed=2)
    padded = Outputs(inside.logits, np.pad(inside.features, ((0, 0), (0, 4))))
    scorer = SCORERS["mahalanobis"].fit(padded, classes)
    probes, far = own(100, seed=5)[0], foreign(100, seed=6)
    near_scores = scorer(logits=probes.logits, features=np.pad(probes.features, ((0, 0), (0, 4))))
    far_scores = scorer(logits=far.logits, features=np.pad(far.features, ((0, 0), (0, 4))))
    assert far_scores.min() > near_scores.max()


def test_mahalanobis_is_the_textbook_distance() -> None:
    """The whitened product equals (x - mean)' S^-1 (x - mean), minimised over the classes."""
    inside, classes = own(400, seed=2)
    means = np.stack([inside.features[classes == i].mean(axis=0) for i in range(CLASSES)])
    precision = np.linalg.inv(np.cov((inside.features - means[classes]).T, bias=True))
    probes = own(20, seed=9)[0]
    offsets = probes.features[:, None] - means
    expected = np.einsum("ncd,de,nce->nc", offsets, precision, offsets).min(axis=1)
    scores = score(SCORERS["mahalanobis"].fit(inside, classes), probes)
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


def test_the_logistic_filter_needs_foreign_images() -> None:
    """Fitting it without them is an error that says so."""
    inside, classes = own(40, seed=2)
    with pytest.raises(ValueError, match="out-of-distribution"):
        SCORERS["logistic"].fit(inside, classes)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who installed the server only is told what to install."""
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    inside, classes = own(40, seed=2)
    with pytest.raises(RuntimeError, match=r"cloneguard\[calibrate\]"):
        SCORERS["logistic"].fit(inside, classes, outside=foreign(40, seed=3))


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="fitting needs scikit-learn")
def test_a_feature_that_never_moved_in_training_cannot_shout() -> None:
    """A constant feature that jumps when serving does not decide the logistic score alone."""
    inside, classes = own(200, seed=2)
    outside = foreign(200, seed=3)
    scorer = SCORERS["logistic"].fit(
        Outputs(inside.logits, np.pad(inside.features, ((0, 0), (0, 1)))),
        classes,
        outside=Outputs(outside.logits, np.pad(outside.features, ((0, 0), (0, 1)))),
    )
    probes = own(50, seed=5)[0]
    quiet = np.pad(probes.features, ((0, 0), (0, 1)))
    loud = np.pad(probes.features, ((0, 0), (0, 1)), constant_values=1.0)
    np.testing.assert_allclose(scorer(logits=probes.logits, features=quiet), scorer(logits=probes.logits, features=loud), atol=1e-3)
