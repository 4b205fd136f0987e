"""The report's plots, as PNG data URIs: nothing global, nothing loaded from elsewhere."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from app import data_uris
from app.calibration_evidence import Evidence
from defenses.false_merges import STORED

OWN, FOREIGN, LINE = "#2f6db3", "#d1642c", "#222222"
THUMBNAIL = 112  # pixels


def histograms(evidence: Evidence) -> str:
    """Scores of held-out images under every scorer, with the threshold."""
    names = list(evidence.own)
    figure = Figure(figsize=(10, 2.4 * -(-len(names) // 2)), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // 2), 2, place + 1)
        own, foreign = evidence.own[name], evidence.foreign.get(name, np.zeros(0, np.float32))
        both = np.concatenate([own, foreign])
        low, high = np.quantile(both, [0.002, 0.998]).tolist()  # a few extremes would squeeze all others into one bar
        edges = np.linspace(low - 1e-6, high + 1e-6, 50).tolist()
        for scores, colour, label in ((own, OWN, "your images"), (foreign, FOREIGN, "foreign images")):
            if len(scores):
                weights = np.full(len(scores), 1 / len(scores))
                axes.hist(np.clip(scores, edges[0], edges[-1]), edges, weights=weights, color=colour, alpha=0.6, label=label)
        axes.axvline(evidence.thresholds[name], color=LINE, linestyle="--", linewidth=1, label=f"threshold at {evidence.benign_fpr:.2%}")
        axes.set_title(name + (" (default)" if name == evidence.default else ""), fontsize=10)
        axes.set_ylabel("share of images", fontsize=8)
        axes.set_xlabel("score: higher is more foreign", fontsize=8)
        axes.tick_params(labelsize=8)
        if not place:
            axes.legend(fontsize=8)
    return _uri(figure)


def roc(evidence: Evidence) -> str:
    """Share of foreign images found against the share of own images flagged, on a logarithmic axis: the left end is what is served."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    rates = np.geomspace(1 / max(len(evidence.own[evidence.default]), 1000), 1, 200)
    for name, own in evidence.own.items():
        found = [(evidence.foreign[name] > cut).mean() for cut in np.quantile(own, 1 - rates, method="higher")]
        axes.plot(rates, found, label=name, linewidth=2 if name == evidence.default else 1)
    axes.axvline(evidence.benign_fpr, color=LINE, linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="share of your images flagged", ylabel="share of foreign images found", ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _uri(figure)


def radii(evidence: Evidence) -> str:
    """What a radius costs (above) and what it finds (below), for every channel."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    for place, channel in enumerate(evidence.channels):
        most = channel.bits // 4
        x = np.arange(most + 1)
        above = figure.add_subplot(2, len(evidence.channels), place + 1)
        counted = -np.expm1(STORED * np.log1p(-np.minimum(channel.merges.counted, 1 - 1e-12)))
        above.plot(x, channel.merges.shares()[: most + 1], color=OWN, label="distinct images (estimated)")
        above.plot(x, counted[: most + 1], ".", color=FOREIGN, markersize=4, label="as counted, with duplicates")
        above.axhline(evidence.false_merges / 2, color=LINE, linewidth=0.7, label="allowed")
        above.set(yscale="log", ylim=(1e-6, 1.5), title=f"{channel.name}, {channel.bits} bits", ylabel=f"merged with one of {STORED:,}")
        below = figure.add_subplot(2, len(evidence.channels), len(evidence.channels) + place + 1)
        for transform, distances in channel.copies.items():
            below.plot(x, _within(distances, x), linewidth=1, label=transform)
        below.set(ylim=(0, 1.01), xlabel="radius (bits)", ylabel="share of copies found")
        for axes in (above, below):
            axes.axvline(channel.radius, color=LINE, linestyle="--", linewidth=1)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    return _uri(figure)


def picture(image: NDArray[np.uint8]) -> str:
    """A small copy of an image; tiny ones are enlarged without smoothing, as the recognizer sees them."""
    small = image.shape[0] < THUMBNAIL
    shown = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    return data_uris.png(np.asarray(shown))


def _within(distances: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.searchsorted(np.sort(distances), x, side="right") / len(distances), dtype=np.float64)


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
