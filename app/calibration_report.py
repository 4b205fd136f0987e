"""The report of a calibration: one HTML file that an engineer can act on, with nothing loaded from elsewhere."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from app import __version__
from app.calibration_advice import advice
from app.calibration_evidence import gather
from app.calibration_passes import Passes
from app.calibration_plots import histograms, picture, radii, roc
from models.bundle import Bundle

TEMPLATE = Path(__file__).with_suffix(".html")


def page(
    bundle: Bundle, passes: Passes, *, arrays: dict[str, Any], measured: dict[str, Any], benign_fpr: float, false_merges: float
) -> str:
    """Make the page from what was computed already; no model runs."""
    evidence = gather(passes, arrays=arrays, measured=measured, benign_fpr=benign_fpr, false_merges=false_merges)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        model=bundle.model,
        version=__version__,
        evidence=evidence,
        held_out=len(passes.held_out.files),
        foreign=len(passes.foreign.files) if passes.foreign else 0,
        advice=advice(evidence),
        found=measured["found_at_benign_fpr"],
        transforms={name: evidence.recall(name) for name in passes.probes},
        probed=len(next(iter(passes.probes.values()))[0]),
        plots={"histograms": histograms(evidence), "roc": roc(evidence) if evidence.foreign else "", "radii": radii(evidence)},
        picture=picture,
    )
