"""A data folder in small: what the benchmarks of the attacks read, with a few pictures that we make ourselves."""

from pathlib import Path

from tests.pictures import png, ship, smooth_noise

POOL, HELD_OUT, TEST = 120, 12, 6  # images of the thief, of these held out for measuring, test images of each class


def write_data(folder: Path) -> Path:
    """Foreign images in two classes, and test images of two classes that the CIFAR-10 recognizer has."""
    pictures = {f"tiny-imagenet-32/train/n0000000{seed % 2}/{seed}.png": smooth_noise(seed=seed) for seed in range(POOL)}
    pictures |= {f"cifar10/test/ship/{seed}.png": ship(seed=seed, size=32) for seed in range(TEST)}
    pictures |= {f"cifar10/test/frog/{seed}.png": smooth_noise(seed=1000 + seed, cells=3) for seed in range(TEST)}
    for name, picture in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))
    return folder
