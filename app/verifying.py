"""`cloneguard verify`: from which account was that clone taken?"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from app.evidence import Evidence, Secrets, copied
from app.keys import derive, load_or_create
from app.recognizers import RecognizerError, alone_in
from app.recognizers.plans import noted
from app.settings import Settings, SettingsError, read_settings
from defenses.evidence.attribution import LEVEL
from defenses.evidence.null_rate import measured_before
from defenses.evidence.screening import QUERIES

NEEDED = ("httpx", "matplotlib", "jinja2")


def verify(
    *,
    suspect: Annotated[
        str, typer.Option(metavar="URL|BUNDLE|ONNX", help="The other recognizer. A URL is a server's, or .../v2/models/NAME.")
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory of answers and report; a run that was stopped goes on there.")],
    state: Annotated[Path | None, typer.Option(help="State directory of the service: its evidence and its secret.")] = None,
    evidence: Annotated[
        list[Path] | None, typer.Option(help="A vault, STATE/evidence.db of a replica; repeatable. Default: that of --state.")
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Name or directory of the bundle that was served.")] = None,
    independent: Annotated[
        list[str] | None,
        typer.Option(metavar="URL|BUNDLE|ONNX", help="A recognizer that knows nothing of ours, to measure the null rate with; repeatable."),
    ] = None,
    null_rate: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="A null rate that was measured before; default: the bundle's.")
    ] = None,
    committed: Annotated[
        list[str] | None,
        typer.Option(metavar="LINK", help="A head of the evidence that was handed out: later triggers accuse nobody. One a vault."),
    ] = None,
    queries: Annotated[int, typer.Option(min=10, help="Most queries to the suspect.")] = QUERIES,
    level: Annotated[float, typer.Option(min=1e-9, max=0.5, help="Share of innocent suspects for which anybody is named.")] = LEVEL,
    suspect_key: Annotated[str | None, typer.Option(envvar="CLONEGUARD_SUSPECT_KEY", help="API key of the suspect's URL.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Most requests a second to a URL.")] = 20.0,
    by_number: Annotated[bool, typer.Option("--by-number", help="Classes are the same by their numbers, not by their names.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws whom the suspect is asked about when not all fits.")] = 0,
) -> None:
    """Say whose watermarked answers a suspect repeats: a report for people, and JSON. Evidence, never proof."""
    if any(find_spec(name) is None for name in NEEDED):
        raise RecognizerError("verifying needs httpx, matplotlib and jinja2: pip install 'cloneguard[detect]'")
    from app.verification import Verification  # noqa: PLC0415, what it needs is an extra of its own
    from models import bundle as bundles  # noqa: PLC0415, likewise
    from models.manifest import load  # noqa: PLC0415, likewise

    for link in committed or ():
        if not re.fullmatch("[0-9a-f]{64}", link):
            raise SettingsError("--committed takes a link of 64 hexadecimal digits, as /admin/v1/evidence tells it")
    given: dict[str, Any] = {"state": state, "model": {"bundle": bundle} if bundle else None}
    settings = read_settings(**{name: value for name, value in given.items() if value})
    ours = load(bundles.locate(settings.model.bundle))
    known = None if independent else measured_before(null_rate or ours.name)
    with alone_in(out):
        vaults = evidence or [settings.evidence_path()]
        noted(out, "verification", vaults=[str(vault.resolve()) for vault in vaults])  # their copies are kept here
        kept = Evidence(
            copied(vaults, out), model=f"{ours.name}@{ours.version}", secrets=_secrets(settings), labels=len(ours.labels),
            committed=frozenset(bytes.fromhex(link) for link in committed or ()),
        )  # fmt: skip
        verification = Verification(
            suspect, tuple(independent or ()), known, queries=queries, level=level, seed=seed, by_number=by_number, out=out
        )
        with kept:
            typer.echo(verification.run(kept, ours, key=suspect_key, rate=rate))
    typer.echo(f"report: {out / 'report.html'}, figures: {out / 'verification.json'}", err=True)


def _secrets(settings: Settings) -> Secrets | None:
    """What triggers are checked with, where the secret is at hand."""
    if settings.secret is None and not (settings.state / "secret").is_file():
        return None
    secret = load_or_create(settings.state, "secret", settings.secret)
    return Secrets(seal=derive(secret, "evidence"), marks=derive(secret, "misrecognition"))
