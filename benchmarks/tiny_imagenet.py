"""Which Tiny-ImageNet classes the CIFAR-10 recognizer knows, which the filter may learn from, and which it never sees."""

import os
from pathlib import Path

import numpy as np

# cats, dogs, frogs, birds, cars, trucks and vans, ships, deer- and horse-like animals: an honest filter should not flag these
# fmt: off
KNOWN = frozenset({
    "n02123045", "n02123394", "n02124075", "n02085620", "n02094433", "n02099601", "n02099712", "n02106662",
    "n02113799", "n01641577", "n01644900", "n01855672", "n02002724", "n02056570", "n02058221", "n02814533",
    "n03100240", "n03670208", "n03977966", "n04285008", "n03796401", "n04465501", "n04487081", "n04146614",
    "n03447447", "n03662601", "n02423022", "n02415577", "n02403003",
})
# fmt: on
UNSEEN = 40  # classes that no filter learns from


def split_classes(names: list[str], *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Classes to learn from and classes to measure with, of those that the recognizer does not know."""
    foreign = sorted(set(names) - KNOWN)
    chosen = set(np.random.default_rng(seed).permutation(foreign)[:UNSEEN].tolist())
    return [name for name in foreign if name not in chosen], sorted(chosen)


def link_classes(source: Path, names: list[str], folder: Path) -> Path:
    """A folder that holds links to some classes of another."""
    folder.mkdir(parents=True)
    for name in names:
        os.symlink((source / name).resolve(), folder / name)
    return folder
