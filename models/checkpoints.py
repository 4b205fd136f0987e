"""Checkpoints: the state of several parts of a training run in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def history_of(checkpoint: Path, recipe: Mapping[str, Any]) -> list[dict[str, float]]:
    """The rows of the epochs done so far. Raises ValueError for a checkpoint of another recipe."""
    if not checkpoint.exists():
        return []
    state = torch.load(checkpoint, weights_only=True)
    if state["recipe"] != recipe:
        raise ValueError(f"{checkpoint} was made with another recipe: {state['recipe']}; choose another --checkpoints folder")
    history: list[dict[str, float]] = state["history"]
    return history


def restore(checkpoint: Path, parts: dict[str, Any]) -> None:
    """Give every part of `parts` its state from the file."""
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])


def save(path: Path, state: dict[str, object]) -> None:
    """Write beside and rename, so that an interrupted save never leaves half a checkpoint."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
