"""`cloneguard detect`: is that recognizer a copy of ours, and with which certainty?"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from app.recognizers import RecognizerError

NEEDED = ("httpx", "sklearn", "matplotlib", "jinja2", "skimage")


def detect(
    *,
    owner: Annotated[str, typer.Option(metavar="URL|BUNDLE", help="Our recognizer: best the bundle itself, which tells no lies.")],
    suspect: Annotated[str, typer.Option(metavar="URL|BUNDLE|ONNX", help="The other one. A URL is a server's, or .../v2/models/NAME.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory of answers and report; a run that was stopped goes on there.")],
    bank: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Pairs whose truth is known; else those of our model.")] = None,
    images: Annotated[str, typer.Option(metavar="DIR|builtin", help="What to ask about: images of no recognizer's training.")] = "builtin",
    owner_key: Annotated[str | None, typer.Option(envvar="CLONEGUARD_OWNER_KEY", help="API key of our URL.")] = None,
    suspect_key: Annotated[str | None, typer.Option(envvar="CLONEGUARD_SUSPECT_KEY", help="API key of the suspect's URL.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Most requests a second to the suspect's URL.")] = 20.0,
    by_number: Annotated[bool, typer.Option("--by-number", help="Classes are the same by their numbers, not by their names.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the images, and the pairs between which the boundary is sought.")] = 0,
) -> None:
    """Say whether a recognizer is consistent with being a clone of ours: a report for people, and JSON."""
    if any(find_spec(name) is None for name in NEEDED):
        raise RecognizerError("detecting needs httpx, scikit-learn, scikit-image, matplotlib and jinja2: pip install 'cloneguard[detect]'")
    from app.detection import Detection  # noqa: PLC0415, what it needs is an extra of its own

    detection = Detection(owner, suspect, images=images, bank=bank, seed=seed, by_number=by_number, out=out)
    typer.echo(detection.run(owner_key=owner_key, suspect_key=suspect_key, rate=rate))
    typer.echo(f"report: {out / 'report.html'}, figures: {out / 'detection.json'}", err=True)
