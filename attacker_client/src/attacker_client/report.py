"""The report of a campaign: run.json as one page, with nothing loaded from elsewhere."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from attacker_client import plots

TEMPLATE = Path(__file__).with_suffix(".html")
LISTED = 20  # of the entries of a list that an attack found


class NoRun(Exception):  # noqa: N818 - reads as what is the matter
    """A directory holds no finished campaign."""


def read_run(out: Path) -> dict[str, Any]:
    """What a campaign measured, from its directory; raises NoRun."""
    try:
        run = json.loads((out / "run.json").read_bytes())
    except (OSError, ValueError) as error:
        raise NoRun(f"{out} holds no finished campaign ({type(error).__name__}: {error})") from error
    if not isinstance(run, dict) or "attack" not in run or "queries_answered" not in run:
        raise NoRun(f"{out / 'run.json'} was not written by attacker-client run")
    return run


def write(out: Path) -> Path:
    """Write report.html from run.json; returns its path, raises NoRun."""
    path = out / "report.html"
    path.write_text(page(read_run(out)), encoding="utf-8")
    return path


def page(run: Mapping[str, Any]) -> str:
    """Make the page."""
    told = run["told"]
    return render(
        TEMPLATE.read_text(encoding="utf-8"),
        run=run,
        findings=list(in_words(run["findings"])),
        plots={
            "training": plots.training(run["epochs"]) if run["epochs"] else "",
            "per_class": plots.per_class(run["per_class"]) if run["per_class"] else "",
            "labels": plots.labels(told["labels"]) if told["labels"] else "",
        },
    )


def render(template: str, **values: Any) -> str:
    """Fill a page's template."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": share, "interval": interval, "amount": amount, "duration": duration, "bytes": size_of}
    return environment.from_string(template).render(values)


def in_words(findings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """What an attack learned, a line a fact: names with spaces, values as text; what nests is named by its path."""
    for name, value in findings.items():
        named = f"{before}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from in_words(value, f"{named}: ")
        else:
            yield named, _text(value)


def share(value: float) -> str:
    """0.7123 as 71.2%."""
    return f"{100 * value:.1f}%"


def interval(measured: Mapping[str, Any]) -> str:
    """The 95% interval as 68.0 to 74.3%."""
    return f"{100 * measured['low']:.1f} to {100 * measured['high']:.1f}%"


def amount(value: float) -> str:
    """A count, with its thousands apart."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_of(count: float) -> str:
    """Bytes in a unit of a readable size."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        more = f" and {len(value) - LISTED:,} more" if len(value) > LISTED else ""
        between = " " if all(str(one).endswith(".") for one in value) else ", "  # sentences, or numbers and names
        return between.join(_text(one) for one in value[:LISTED]) + more
    return "not known" if value is None else str(value)
