"""How good the student is: on images held out from buying, and on labelled test images where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attacker_client import measures
from attacker_client.attacks.attack import Buyer, Pool
from attacker_client.measures import ClassMeasures, Measure
from attacker_client.references import UNKNOWN, Reference, bought_labels
from attacker_client.students import Student
from attacker_client.transfer_set import Images

Labels = NDArray[np.int64]  # (n,), as the endpoint numbers the classes


@dataclass(slots=True)
class Evaluation:
    """What was measured; None where there was nothing to measure with. `notes` say what a reader would ask."""

    fidelity: Measure | None = None
    fidelity_on_test: Measure | None = None
    fidelity_to_reference: Measure | None = None
    fidelity_to_reference_on_test: Measure | None = None
    accuracy: Measure | None = None
    per_class: list[ClassMeasures] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def evaluate(
    student: Student,
    *,
    held_out: Pool,
    test: tuple[Images, Sequence[str]] | None,
    buyer: Buyer,
    names: Mapping[int, str],
    reference: Reference | None,
    most: int,
    seed: int,
) -> Evaluation:
    """Measure a student: `most` queries on held-out images, and as many on test images (n, S, S, 3), which come with what they show.

    `names` are the classes that the endpoint has named so far, and grows with what is asked here. Accuracy takes all test images: it needs
    no query. Raises OracleError.
    """
    found = Evaluation()
    pixels = held_out[np.arange(min(most, len(held_out)))]
    predicted = _answers(student, pixels)
    found.fidelity = measures.fidelity(predicted, await bought_labels(buyer, pixels))
    found.fidelity_to_reference = measures.fidelity(predicted, await _honest(reference, pixels, names, found.notes))
    if test is None:
        return found
    pixels, shown = test
    predicted = _answers(student, pixels)
    rows = np.random.default_rng(seed).permutation(len(pixels))[:most]
    told = np.full(len(pixels), UNKNOWN, np.int64)
    told[rows] = await bought_labels(buyer, pixels[rows])
    found.fidelity_on_test = measures.fidelity(predicted, told)
    honest = await _honest(reference, pixels[rows], names, found.notes)
    found.fidelity_to_reference_on_test = measures.fidelity(predicted[rows], honest)
    truth, known = numbered(shown, names)
    if known == 0:
        found.notes.append(
            f"The accuracy is not known: no folder of the test images is called as a class of the endpoint ({shown[0]}, for one)."
        )
        return found
    unknown = len({name.casefold() for name in shown}) - known
    if unknown:
        found.notes.append(f"{unknown} of the test images' classes were never named by the endpoint; theirs count as wrong.")
    found.accuracy = measures.accuracy(predicted, truth)
    by_number = dict(names) | dict(zip(truth.tolist(), shown, strict=True))
    listed = [by_number.get(number, str(number)) for number in range(max(by_number) + 1)]
    found.per_class = measures.per_class(predicted, truth, told=told, names=listed)
    return found


def numbered(shown: Sequence[str], names: Mapping[int, str]) -> tuple[Labels, int]:
    """The endpoint's number of each name (n,), whatever its case, and how many different names it knows.

    A name that it never told gets a number of its own, above all of the endpoint's: no answer can match it.
    """
    numbers = {name.casefold(): number for number, name in names.items()}
    folded = [name.casefold() for name in shown]
    unknown = sorted(set(folded) - set(numbers))
    known = len(set(folded)) - len(unknown)
    above = max(names, default=-1) + 1
    numbers |= {name: above + place for place, name in enumerate(unknown)}
    return np.array([numbers[name] for name in folded], np.int64), known


def _answers(student: Student, images: Images) -> Labels:
    return np.asarray(student.probabilities(images).argmax(axis=1), np.int64)


async def _honest(reference: Reference | None, images: Images, names: Mapping[int, str], notes: list[str]) -> Labels:
    """The reference's labels in the endpoint's numbering, matched by name where the reference has names; UNKNOWN without a reference.

    Where the two share no name, the numbers themselves are compared if one side's names are nothing but these; else nothing can be.
    """
    if reference is None:
        return np.full(len(images), UNKNOWN, np.int64)
    labels = await reference.labels(images)
    if not reference.names:
        return labels
    if {name.casefold() for name in reference.names.values()} & {name.casefold() for name in names.values()}:
        answered = labels != UNKNOWN
        labels[answered], _ = numbered([reference.names.get(label, str(label)) for label in labels[answered].tolist()], names)
        return labels
    if _are_positions(names) or _are_positions(reference.names):
        note = "The endpoint and the honest recognizer share no name of a class: agreement with the latter compares the classes' numbers."
    else:
        note = "Agreement with the honest recognizer is not known: it shares no name of a class with the endpoint."
        labels = np.full(len(images), UNKNOWN, np.int64)
    if note not in notes:
        notes.append(note)
    return labels


def _are_positions(names: Mapping[int, str]) -> bool:
    """Whether each class is called as it is numbered, as endpoints do that tell one tensor of all classes."""
    return all(name == str(number) for number, name in names.items())
