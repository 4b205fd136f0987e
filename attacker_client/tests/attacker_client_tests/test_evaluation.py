"""Measures compare the same classes, however each side calls them."""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from attacker_client import students
from attacker_client.evaluation import Evaluation, evaluate
from attacker_client.students import Student
from attacker_client.transfer_set import Images, TransferSet

from .attacks.scenes import SIZE, ShapesPool

pytestmark = pytest.mark.anyio


class Copied:
    """A buyer and a reference that the student is a perfect copy of."""

    left, identities = 1000, 1

    def __init__(self, student: Student, names: Mapping[int, str], *, offset: int = 0) -> None:
        self.names = names
        self._student = student
        self._offset = offset  # by how much the reference numbers classes differently

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:  # noqa: ARG002 - the protocol's
        """What the student says."""
        scores = self._student.probabilities(images)
        return TransferSet(images, scores.argmax(axis=1), scores, np.ones(len(images), np.float32))

    async def labels(self, images: Images) -> NDArray[np.int64]:
        """The same, in the reference's numbering."""
        return np.asarray((self._student.probabilities(images).argmax(axis=1) + self._offset) % 3, np.int64)


async def measured(endpoint: Mapping[int, str], honest: Mapping[int, str], *, offset: int = 0) -> Evaluation:
    """Measure a student against endpoints that it is a perfect copy of, on held-out images and on test images."""
    student = students.build("small", classes=3, size=SIZE, seed=0)
    pool, copied = ShapesPool(40), Copied(student, honest, offset=offset)
    test = (ShapesPool(20, seed=8).images, ["sphinx"] * 20)
    return await evaluate(student, held_out=pool, test=test, buyer=copied, names=endpoint, reference=copied, most=30, seed=0)


NAMED, NUMBERED = {0: "cat", 1: "dog", 2: "emu"}, {0: "0", 1: "1", 2: "2"}


@pytest.mark.parametrize(("endpoint", "honest"), [(NUMBERED, NAMED), (NAMED, NUMBERED)])
async def test_a_side_without_names(endpoint: Mapping[int, str], honest: Mapping[int, str]) -> None:
    """Where one side only numbers its classes, the numbers are compared, and a note says so once."""
    found = await measured(endpoint, honest)
    for measure in (found.fidelity_to_reference, found.fidelity_to_reference_on_test):
        assert measure is not None and measure.value == 1
    assert sum("the classes' numbers" in note for note in found.notes) == 1


async def test_sides_that_share_no_name() -> None:
    """Names of which none is the same can't be compared: agreement is unknown, not zero, and a note says why."""
    found = await measured(NAMED, {0: "chat", 1: "chien", 2: "emeu"})
    assert found.fidelity_to_reference is None and found.fidelity_to_reference_on_test is None
    assert sum("shares no name" in note for note in found.notes) == 1


async def test_sides_that_number_differently() -> None:
    """Where names are shared they decide, whatever the numbers and the case."""
    found = await measured(NAMED, {1: "Cat", 2: "Dog", 0: "Emu"}, offset=1)
    assert found.fidelity_to_reference is not None and found.fidelity_to_reference.value == 1
    assert not any("name of a class" in note for note in found.notes)
