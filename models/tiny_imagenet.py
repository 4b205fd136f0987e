"""Which Tiny-ImageNet classes the backbone and the filters may learn from, and which nothing of ours ever sees."""

import numpy as np

# cats, dogs, frogs, birds, cars, trucks and vans, ships, deer- and horse-like animals: CIFAR-10 has them too
# fmt: off
KNOWN = frozenset({
    "n02123045", "n02123394", "n02124075", "n02085620", "n02094433", "n02099601", "n02099712", "n02106662",
    "n02113799", "n01641577", "n01644900", "n01855672", "n02002724", "n02056570", "n02058221", "n02814533",
    "n03100240", "n03670208", "n03977966", "n04285008", "n03796401", "n04465501", "n04487081", "n04146614",
    "n03447447", "n03662601", "n02423022", "n02415577", "n02403003",
})
# fmt: on
UNSEEN = 40


def unseen_classes(names: list[str], *, seed: int = 0) -> list[str]:
    """The 40 classes, none of those that CIFAR-10 knows, that neither a backbone nor a filter learns from."""
    foreign = sorted(set(names) - KNOWN)
    return sorted(np.random.default_rng(seed).permutation(foreign)[:UNSEEN].tolist())
