"""Folders of images: which files count, and in which order."""

import os
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth under a folder, links followed, sorted, so that a seed picks the same ones everywhere."""
    paths = (Path(parent) / name for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
