"""Alpha, beta and gamma are what the paper's formulas say, delta is what ours says, and what is missing is said."""

import numpy as np
import pytest

from defenses.clone_detection.features import ALL, Features, Interval, compare
from defenses.clone_detection.recognizer import Answers, Counted, Inputs, Recognizer
from defenses.clone_detection.sampling import Sample, boundary_samples, random_sample
from tests.defenses.clone_detection.squares import Halves, square


def measure(suspect: Recognizer, *, near: Sample, far: Sample) -> Features:
    """Ask a suspect about both samples."""
    return compare(suspect(near.inputs), suspect(far.inputs), near=near, far=far)


def test_the_formulas() -> None:
    """Alpha, delta: equal labels; beta: strictly more confident originals; gamma: mean of squares, not centred."""
    near = Sample(np.zeros((4, 2)), Answers(np.array([0, 1, 2, 1]), np.array([0.5, 0.5, 0.9, 1.0])), queries=28)
    far = Sample(np.ones((4, 2)), Answers(np.array([0, 1, 0, 1]), np.array([0.5, 0.6, 0.7, 0.8])), queries=4)

    def suspect(inputs: Inputs) -> Answers:
        if inputs[0, 0] == 0:
            return Answers(np.array([0, 1, 2, 0]), np.array([0.4, 0.4, 0.8, 0.9]))
        return Answers(np.array([0, 0, 1, 1]), np.array([0.5, 0.5, 0.9, 0.9]))

    found = measure(suspect, near=near, far=far)
    assert found.vector() == pytest.approx([0.75, 0.25, 0.01])  # the paper's
    assert found.vector(ALL) == pytest.approx([0.75, 0.25, 0.01, 0.5])
    assert (found.original_queries, found.suspect_queries, found.message) == (32, 8, "")


def test_alpha_falls_with_the_steps() -> None:
    """A clone whose boundary is a little off agrees after few steps and no more than a stranger after many: why k is calibrated."""
    random = np.random.default_rng(0)
    original, clone, stranger = Halves(), Halves(wiggle=0.02), Halves(at=0.3, wiggle=0.3)
    far = random_sample(original, square(500), random=random, count=200)
    path = boundary_samples(original, square(4_000), random=random, count=1_000, steps=15)
    alphas = [(measure(clone, near=near, far=far).alpha.value, measure(stranger, near=near, far=far).alpha.value) for near in path]
    assert alphas[2][0] > 0.9 and alphas[2][0] > alphas[2][1] + 0.2
    assert alphas[14][0] < 0.6 and abs(alphas[14][0] - alphas[14][1]) < 0.1


@pytest.mark.parametrize(
    ("original", "suspect", "silent"),
    [
        (Halves(), Halves(labels_only=True), "the suspect told"),
        (Halves(labels_only=True), Halves(), "the original told"),
        (Halves(labels_only=True), Halves(labels_only=True), "the original and the suspect told"),
    ],
)
def test_labels_alone_leave_alpha_and_delta(original: Recognizer, suspect: Recognizer, silent: str) -> None:
    """Without confidences on one side the labels of both samples are compared, and a message says who was silent."""
    random = np.random.default_rng(0)
    *_, near = boundary_samples(original, square(100), random=random, count=50, steps=3)
    asked = Counted(suspect)
    found = measure(asked, near=near, far=random_sample(original, square(100), random=random, count=30))
    assert (found.alpha.value, found.beta, found.gamma, found.delta.value) == (1.0, None, None, 1.0)
    assert found.message.startswith(silent) and found.names == ("alpha", "delta")
    assert asked.queries == found.suspect_queries == 80


def test_intervals_cover() -> None:
    """About 95% of the intervals of a share of 0.9 and of a skewed mean contain the truth."""
    random = np.random.default_rng(0)
    shares = [Interval.of_share(random.random(200) < 0.9) for _ in range(200)]
    means = [Interval.of_mean(random.exponential(0.1, 200)) for _ in range(100)]
    assert 0.9 < np.mean([one.low <= 0.9 <= one.high for one in shares]) <= 1
    assert 0.86 < np.mean([one.low <= 0.1 <= one.high for one in means]) <= 1
    assert Interval.of_share(np.ones(10, dtype=np.bool_)).low == pytest.approx(0.722, abs=0.001)  # Wilson's: n / (n + z^2)


def test_a_vector_has_the_features_that_were_named() -> None:
    """In the order of the names; one that the pair does not have is refused."""
    one, two, three, four = (Interval(value, 0, 1) for value in (0.1, 0.2, 0.3, 0.4))
    found = Features(one, two, three, four, 5, 1, 1)
    assert found.vector(("delta", "beta")).tolist() == [0.4, 0.2] and found.vector(found.names).tolist() == [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(AssertionError):
        Features(one, None, None, four, 5, 1, 1).vector(ALL)
