"""Named settings. A profile is a column of every results table, so its values change only with a changelog entry."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from defenses.vocabulary import Mode


class ProfileName(StrEnum):
    """The profiles that exist."""

    OPEN = "open"
    TRUNCATE = "truncate"
    BALANCED = "balanced"
    STRICT = "strict"


DEFAULT_PROFILE = ProfileName.BALANCED

Values = Mapping[str, Mapping[str, Any]]

# No defence at all: every class with its full score. The reference that the others are measured against.
OPEN: Values = {}

# Tell little, alter nothing.
TRUNCATE: Values = {"truncation": {"mode": Mode.ENFORCE, "top_k": 3, "decimals": 2}}

# Honest users get right answers: only foreign images, what those who send them found, and the watermark's share are altered.
BALANCED: Values = {
    "ood": {"mode": Mode.ENFORCE, "benign_fpr": 0.009, "hysteresis": 0.0175},
    "near_duplicates": {"mode": Mode.ENFORCE},
    "misrecognition": {"mode": Mode.ENFORCE, "rate": 0.0},
    "watermark": {"mode": Mode.ENFORCE, "rate": 0.005},
    "suspicion": {"mode": Mode.ENFORCE},
    "truncation": {"mode": Mode.ENFORCE, "top_k": 3, "decimals": 2},
}

# For services whose users need one label: honest users pay with one wrong answer in ten.
STRICT: Values = {
    "ood": {"mode": Mode.ENFORCE, "benign_fpr": 0.04, "hysteresis": 0.05},
    "near_duplicates": {"mode": Mode.ENFORCE},
    "misrecognition": {"mode": Mode.ENFORCE, "rate": 0.05},
    "watermark": {"mode": Mode.ENFORCE, "rate": 0.01},
    "suspicion": {"mode": Mode.ENFORCE, "tolerated": 0.6, "certain": 0.75},  # this filter flags half of the right things of other cameras
    "truncation": {"mode": Mode.ENFORCE, "top_k": 1, "labels_only": True},
}

PROFILES: Mapping[str, Values] = {
    ProfileName.OPEN: OPEN,
    ProfileName.TRUNCATE: TRUNCATE,
    ProfileName.BALANCED: BALANCED,
    ProfileName.STRICT: STRICT,
}
