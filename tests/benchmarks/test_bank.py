"""The bank in small: who is stolen how, and that what was measured is not measured again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from attacker_client import students
from attacker_client.export import export
from benchmarks.bank import STOLEN, by_theft
from benchmarks.bank_answers import STEPS, Kept, measured
from benchmarks.bank_clones import planned
from benchmarks.bank_recognizers import ARCHITECTURES, INDEPENDENTS, Network, labelled
from defenses.clone_detection.bank import Model
from defenses.clone_detection.features import ALL, compare
from defenses.clone_detection.recognizer import Answers, Counted, Inputs
from defenses.clone_detection.sampling import boundary_sample, random_sample
from models.packaging import make_bundle
from tests.defenses.clone_detection.squares import bank


def by_brightness(limit: float) -> Counted:
    """A recognizer of pictures that are brighter than `limit`, and how sure it is of that."""

    def told(inputs: Inputs) -> Answers:
        above = inputs.mean(axis=(1, 2, 3)) / 255 - limit
        return Answers((above > 0).astype(np.int64), 1 - np.exp(-np.abs(above)) / 2)

    return Counted(told)


def test_there_are_132_pairs_and_24_clones() -> None:
    """Twelve independents of four architectures; every original is stolen with every attack, told scores and told labels."""
    thefts = planned(STOLEN)
    assert len(INDEPENDENTS) * (len(INDEPENDENTS) - 1) == 132 and len({theft.name for theft in thefts}) == 24
    assert {one.architecture for one in STOLEN} == set(ARCHITECTURES) == {theft.student for theft in thefts}
    for one in STOLEN:
        own = [theft for theft in thefts if theft.original == one]
        assert len({(theft.attack, theft.told) for theft in own}) == 6 and {theft.student for theft in own} == set(ARCHITECTURES)


def test_rows_are_measured_once(tmp_path: Path) -> None:
    """A suspect with a boundary close by agrees more; the second time nobody is asked, for other suspects everybody is."""
    levels = np.random.default_rng(0).integers(0, 256, (120, 1, 1, 1))
    asked = np.broadcast_to(levels, (120, 4, 4, 3)).astype(np.uint8)
    original, clone, stranger = by_brightness(0.5), by_brightness(0.51), by_brightness(0.8)
    rows = measured("f", original, {"clone": clone, "stranger": stranger}, asked, out=tmp_path, count=40)
    (alpha, *_, delta), stranger_s = (row.features[2] for row in rows)
    assert alpha > stranger_s[0] and delta > stranger_s[3] and set(rows[0].features) == set(STEPS)
    assert original.queries == 40 * (2 + max(STEPS)) + 40 and clone.queries == 40 * (len(STEPS) + 1)
    before = original.queries
    assert measured("f", original, {"clone": clone, "stranger": stranger}, asked, out=tmp_path, count=40) == rows
    assert original.queries == before
    measured("f", original, {"clone": clone}, asked, out=tmp_path, count=40)
    assert original.queries == 2 * before
    measured("f", original, {"clone": clone}, asked, out=tmp_path, count=30)
    assert original.queries > 2 * before


def test_features_come_from_kept_answers(tmp_path: Path) -> None:
    """As they are when recognizers are asked and compared on the spot."""
    asked = np.random.default_rng(0).integers(0, 256, (120, 4, 4, 3), dtype=np.uint8)
    original, suspect = by_brightness(0.5), by_brightness(0.505)
    (row,) = measured("f", original, {"h": suspect}, asked, out=tmp_path, count=40)
    random = np.random.default_rng(0)
    far = random_sample(original, asked[80:], random=random, count=40)
    near = boundary_sample(original, asked[:80], random=random, count=40, steps=3)
    found = compare(suspect(near.inputs), suspect(far.inputs), near=near, far=far)
    assert row.features[3] == tuple(found.vector(ALL).tolist())
    kept = Kept.load(tmp_path / "f.npz")
    assert kept.rows("f") == [row] and kept.labels.shape == kept.confidences.shape == (2, len(STEPS) + 1, 40)
    assert np.array_equal(kept.labels[1, STEPS.index(3)], suspect(near.inputs).labels)


def test_a_recognizer_becomes_a_bundle(tmp_path: Path) -> None:
    """What is served over HTTP answers as the network that the bank asks."""
    student = students.build("small", classes=3, size=32, seed=0).eval()
    export(student, tmp_path / "student.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    plain = {"labels": ("a", "b", "c"), "mean": (0, 0, 0), "std": (1, 1, 1)}
    make_bundle(tmp_path / "student.onnx", tmp_path / "bundle", name="bank", version="1", size=32, **plain)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": images})[0]
    answers = Network(student)(images)
    assert answers.confidences is not None
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert answers.confidences == pytest.approx(shares.max(axis=1), abs=0.03)  # the network computes in bfloat16 where it can


def test_true_classes_are_a_transfer_set() -> None:
    """Labels alone, every image counts, as many classes as there are."""
    made = labelled(np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 2, 1, 2]))
    assert made.classes == 3 and (made.weights == 1).all()
    assert made.targets(hard=True).argmax(axis=1).tolist() == [0, 2, 1, 2]


def test_clones_are_counted_by_how_they_were_stolen() -> None:
    """Far from all independents every one is found; as like to them as these to each other, hardly any."""
    for apart, found in ((8, "24"), (0, None)):
        drawn = bank(apart=apart)
        how = {"attack": "standard", "told": "labels", "fidelity": {"value": 0.6}}
        models = {name: Model(one.architecture, one.clone_of, how) for name, one in drawn.models.items()}
        (attack, told, clones, hits, fidelity) = (next(iter(column.cells)) for column in by_theft(replace(drawn, models=models)).columns)
        assert (attack, told, clones, fidelity) == ("standard", "labels", "24", "60% to 60%")
        assert hits == found if found else int(str(hits)) < 12
