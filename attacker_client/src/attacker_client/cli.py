"""The command line: `attacker-client run | list | report | compare | ask | version`."""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attacker_client.errors import LedgerError, OracleError
from attacker_client.open_inference import endpoint_url
from attacker_client.oracle import Oracle
from attacker_client.wire import OracleAnswer, is_loopback

EXIT_USAGE = 2  # a call that can't be made
EXIT_REFUSED = 3  # the endpoint refused for good; the campaign can go on later
EXIT_INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Clone an image-recognition endpoint, to learn what it costs.",
)
console = Console()
complaints = Console(stderr=True)

TargetArgument = Annotated[str, typer.Argument(help="http://HOST:PORT, with or without /predict, or http://HOST:PORT/v2/models/NAME.")]
OwnOption = Annotated[
    list[str] | None,
    typer.Option("--i-own-this", metavar="URL", help="Repeat an address that is not loopback: you may only ask what is yours."),
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key", envvar="ATTACKER_CLIENT_API_KEY", help="Sent as Authorization: Bearer KEY. Several keys are several clients."
    ),
]


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def run(
    url: TargetArgument,
    *,
    attack: Annotated[str, typer.Option(metavar="NAME[:INNER]", help="Which attack; attacker-client list shows them.")],
    images: Annotated[str, typer.Option(metavar="DIR|builtin|torchvision:NAME", help="The images to ask about.")],
    budget: Annotated[int, typer.Option(min=1, help="Queries: one image is one query.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Directory of the campaign: ledger, checkpoints, student, run.json, report.html.")
    ],
    student: Annotated[str, typer.Option(help="Architecture of the clone.")] = "small",
    recipe: Annotated[str, typer.Option(help="How it is trained.")] = "fast",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's number.")] = None,
    hard_labels: Annotated[bool, typer.Option("--hard-labels", help="Learn labels even where scores are told.")] = False,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from ImageNet's weights (downloaded).")] = False,
    size: Annotated[int, typer.Option(min=16, help="Pixels a side of the images sent.")] = 32,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the attack; repeatable.")] = None,
    identities: Annotated[int | None, typer.Option(min=1, help="As how many clients to ask; one a key by default.")] = None,
    forwarded_for: Annotated[bool, typer.Option("--forwarded-for", help="Tell clients apart by X-Forwarded-For.")] = False,
    api_key: KeysOption = None,
    test_images: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of class folders named like the endpoint's labels.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="URL|ONNX", help="The honest recognizer: an endpoint, a model or a bundle.")
    ] = None,
    reference_key: Annotated[
        str | None, typer.Option(envvar="ATTACKER_CLIENT_REFERENCE_KEY", help="Sent to the reference as Authorization: Bearer KEY.")
    ] = None,
    evaluation: Annotated[
        int, typer.Option(min=1, help="Queries to measure with, counted apart; as many again with --test-images.")
    ] = 1_000,
    concurrency: Annotated[int, typer.Option(min=1, help="Queries under way at a time.")] = 32,
    seed: Annotated[int, typer.Option(help="Everything random hangs on it.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the campaign in --out.")] = False,
    i_own_this: OwnOption = None,
) -> None:
    """Clone an endpoint: buy answers, train a student, measure it, write a report."""
    from attacker_client import campaign as campaigns  # noqa: PLC0415, torch takes seconds
    from attacker_client.compare import table  # noqa: PLC0415
    from attacker_client.images import ImagesError  # noqa: PLC0415
    from attacker_client.references import UnusableReference  # noqa: PLC0415
    from attacker_client.students import StudentError  # noqa: PLC0415

    target = _owned(url, i_own_this)
    if reference is not None and "://" in reference:
        reference = _owned(reference, i_own_this)
    pairs = [pair.partition("=") for pair in option or []]
    if any(not equals for _, equals, _ in pairs):
        raise typer.BadParameter("an option of the attack reads NAME=VALUE", param_hint="--option")
    campaign = campaigns.Campaign(
        target=target, attack=attack, images=images, budget=budget, student=student, recipe=recipe, epochs=epochs,
        options={name: value for name, _, value in pairs}, hard_labels=hard_labels, pretrained=pretrained, size=size,
        identities=identities or max(1, len(api_key or ())), forwarded_for=forwarded_for,
        test_images=str(test_images) if test_images else None, reference=reference, evaluation=evaluation, seed=seed,
    )  # fmt: skip
    going_on = f"What was bought is kept in {out}. To go on, give the same command with --resume."
    try:
        result = asyncio.run(
            campaigns.run(campaign, out=out, resume=resume, keys=api_key or (), reference_key=reference_key, concurrency=concurrency)
        )
    except (campaigns.CampaignError, ImagesError, StudentError, UnusableReference, LedgerError) as error:
        complaints.print(escape(f"attacker-client: {error}"), soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from error
    except OracleError as error:
        complaints.print(escape(f"attacker-client: {error}\n{going_on}"), soft_wrap=True)
        raise typer.Exit(EXIT_REFUSED) from error
    except KeyboardInterrupt:
        complaints.print(escape(f"Stopped. {going_on}"), soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    console.print(table([result.run]))
    console.print(escape(str(result.report)), soft_wrap=True)


@app.command("list")
def list_abilities() -> None:
    """List the attacks, the students and the recipes."""
    from attacker_client.architectures import STUDENTS  # noqa: PLC0415
    from attacker_client.attacks import ATTACKS, WRAPPERS, options_in_words  # noqa: PLC0415, torch takes seconds
    from attacker_client.recipes import RECIPES  # noqa: PLC0415

    for title, kinds in (("attacks", ATTACKS), ("wrappers: NAME:INNER changes how another attack goes", WRAPPERS)):
        table = Table("name", "what it does", "options", title=title, title_justify="left")
        for name, kind in kinds.items():
            table.add_row(name, escape(kind.summary), escape("\n".join(options_in_words(kind))))
        console.print(table)
    for title, rows in (("students", STUDENTS), ("recipes", RECIPES)):
        table = Table("name", "what it is", title=title, title_justify="left")
        for name, row in rows.items():
            table.add_row(name, escape(row.summary))
        console.print(table)


@app.command()
def report(out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of a finished campaign.")]) -> None:
    """Write report.html again from run.json."""
    from attacker_client.report import NoRun, write  # noqa: PLC0415, matplotlib takes a second

    try:
        console.print(str(write(out)), soft_wrap=True)
    except NoRun as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of a finished campaign.")],
    *,
    to: Annotated[Path | None, typer.Option(dir_okay=False, help="Where the model goes; default: OUT/student.onnx.")] = None,
) -> None:
    """Write the student as an ONNX file: pixels in 0..1 to logits."""
    from attacker_client import students  # noqa: PLC0415, torch takes seconds
    from attacker_client.export import export as write_onnx  # noqa: PLC0415

    if not (out / "student.pt").is_file():
        raise typer.BadParameter(f"{out} has no student.pt: it is not a finished campaign")
    path = to or out / "student.onnx"
    try:
        write_onnx(students.load(out / "student.pt"), path)
    except students.StudentError as error:
        complaints.print(escape(f"attacker-client: {error}"), soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from error
    console.print(str(path), soft_wrap=True)


@app.command()
def compare(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Directories of finished campaigns.")],
    *,
    to: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("compare.html"),
) -> None:
    """Put campaigns beside each other: a table here, and a page with the curve over budgets."""
    from attacker_client import compare as comparing  # noqa: PLC0415, matplotlib takes a second
    from attacker_client.report import NoRun, read_run  # noqa: PLC0415

    try:
        runs = [read_run(out) for out in outs]
    except NoRun as error:
        raise typer.BadParameter(str(error)) from error
    console.print(comparing.table(runs))
    to.write_text(comparing.page(runs), encoding="utf-8")
    console.print(str(to), soft_wrap=True)


@app.command()
def ask(
    url: TargetArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", exists=True, dir_okay=False, help="JPEG, PNG or WebP files.")],
    *,
    api_key: Annotated[str | None, typer.Option(envvar="ATTACKER_CLIENT_API_KEY", help="Sent as Authorization: Bearer KEY.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Queries under way at a time.")] = 4,
    attempts: Annotated[int, typer.Option(min=1, help="Tries an image before a busy or unreachable endpoint is given up.")] = 5,
    i_own_this: OwnOption = None,
) -> None:
    """Ask an endpoint about images and print what it says."""
    _owned(url, i_own_this)
    oracle = Oracle(url, api_key=api_key, attempts=attempts)
    try:
        answers = asyncio.run(_ask_all(oracle, [path.read_bytes() for path in images], concurrency=concurrency))
    except OracleError as error:
        complaints.print(escape(f"attacker-client: {error}"), soft_wrap=True)
        raise typer.Exit(EXIT_REFUSED) from error
    table = Table("image", "label", "score", "model")
    for path, answer in zip(images, answers, strict=True):
        if isinstance(answer, OracleAnswer):
            table.add_row(
                escape(path.name),
                escape(answer.label),
                "not told" if answer.scores is None else f"{answer.scores[0]:.4f}",
                escape(answer.model),
            )
        else:
            complaints.print(escape(f"{path.name}: {type(answer).__name__}: {answer}"), soft_wrap=True)
    console.print(table)
    console.print(f"{oracle.queries_answered} of {len(images)} answered, {oracle.queries_sent} requests sent")
    if oracle.queries_answered < len(images):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    console.print(version_of("attacker-client"), highlight=False)


def _owned(url: str, i_own_this: Sequence[str] | None) -> str:
    """The target's full address; refuses one that is neither this machine nor said to be the user's."""
    try:
        target = endpoint_url(url)
        owned = target in [endpoint_url(each) for each in i_own_this or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not is_loopback(target) and not owned:
        raise typer.BadParameter(f"{url} is not this machine. If it is yours to attack, say so: --i-own-this {url}")
    return target


async def _ask_all(oracle: Oracle, images: Sequence[bytes], *, concurrency: int) -> list[OracleAnswer | OracleError]:
    async with oracle:
        return await oracle.ask_many(images, concurrency=concurrency)
