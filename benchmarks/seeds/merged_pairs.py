"""Merged pairs for a human to look at, the most alike first: image sets hold true near-duplicates, and those are no mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.seeds.scenes import Scene
from defenses.true_duplicates import aligned_correlation

COLUMNS = 10


def listed(scene: Scene, pairs: Sequence[tuple[int, int, str]]) -> list[dict[str, Any]]:
    """The pairs with their names, the best correlation of any alignment, and whether they share a class; most alike first."""
    rows = []
    for asked, stored, channels in pairs:
        alike = aligned_correlation(scene.asked.pixels[asked], scene.stored.pixels[stored])
        same = bool(scene.asked.classes[asked] == scene.stored.classes[stored])
        rows.append(
            {
                "asked": scene.asked.names[asked],
                "stored": scene.stored.names[stored],
                "rows": [asked, stored],
                "channels": channels,
                "correlation": round(alike, 3),
                "same_class": same,
            }
        )
    return sorted(rows, key=lambda row: -row["correlation"])


def sheet(scene: Scene, pairs: Sequence[dict[str, Any]], path: Path) -> None:
    """A PNG of the listed pairs side by side; the figure is the correlation, green for the same class."""
    side, high = 2 * scene.asked.pixels.shape[1], 2 * scene.asked.pixels.shape[1] + 14
    picture = Image.new("RGB", (COLUMNS * (2 * side + 8), max(1, -(-len(pairs) // COLUMNS)) * high), "white")
    draw = ImageDraw.Draw(picture)
    for at, pair in enumerate(pairs):
        left, top = at % COLUMNS * (2 * side + 8), at // COLUMNS * high
        images = (scene.asked.pixels[pair["rows"][0]], scene.stored.pixels[pair["rows"][1]])
        for place, pixels in enumerate(images):
            picture.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left + place * side, top + 12))
        draw.text((left, top), f"{pair['correlation']:.2f} {pair['channels'][:4]}", fill="green" if pair["same_class"] else "red")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
