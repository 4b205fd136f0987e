"""Accounts that were told keyed wrong labels, and suspects that know something of it or nothing, all made of random numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from defenses.evidence.trigger import Trigger

CLASSES = 10
CONTROLS = 16
POPULAR = 0.6 ** np.arange(CLASSES)  # how often a wrong class is told, and named by mistake: the worst case of both alike


def pictures(count: int, *, random: np.random.Generator) -> list[Trigger]:
    """One trigger of nobody's in each of `count` neighbourhoods, told and controls from one skewed distribution over the wrong classes."""
    honest = random.integers(CLASSES, size=count)
    weights = np.tile(POPULAR / POPULAR.sum(), (count, 1))
    weights[np.arange(count), honest] = 0
    edges = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)[:, None]
    keyed = (random.random((count, 1 + CONTROLS, 1)) > edges).sum(axis=2).clip(max=CLASSES - 1)
    names = [f"{number:016x}" for number in random.integers(2**63, size=count)]
    return [
        Trigger("", name, name, "", right, told, tuple(controls), 0.01, "m", "", float(place))
        for place, (name, right, (told, *controls)) in enumerate(zip(names, honest.tolist(), keyed.tolist(), strict=True))
    ]


def account(client: str, some: Iterable[Trigger]) -> list[Trigger]:
    """What a client was told who asked about these pictures."""
    return [replace(trigger, client=client) for trigger in some]


def innocent(triggers: Iterable[Trigger], *, accuracy: float, random: np.random.Generator) -> dict[str, int]:
    """Answers of a suspect that knows nothing of us: right with `accuracy`, otherwise a popular class."""
    honest = {trigger.image: trigger.honest for trigger in triggers}
    right = random.random(len(honest)) < accuracy
    mistakes = random.choice(CLASSES, size=len(honest), p=POPULAR / POPULAR.sum())
    return dict(zip(honest, np.where(right, list(honest.values()), mistakes).tolist(), strict=True))


def clone(
    triggers: Mapping[str, Sequence[Trigger]], thieves: Iterable[str], *, memorised: float, random: np.random.Generator
) -> dict[str, int]:
    """Answers of a suspect that was trained on what `thieves` were told, and repeats a share `memorised` of it."""
    answers = innocent((trigger for own in triggers.values() for trigger in own), accuracy=0.7, random=random)
    told = {trigger.image: trigger.told for thief in thieves for trigger in triggers[thief]}
    return answers | {image: label for image, label in told.items() if random.random() < memorised}
