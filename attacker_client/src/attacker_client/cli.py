"""The command line: `attacker-client list | ask | version`."""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attacker_client.errors import OracleError
from attacker_client.oracle import Oracle
from attacker_client.wire import OracleAnswer, is_loopback, predict_url

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Ask an image-recognition endpoint as a thief would, to learn what a clone costs."
)
console = Console()
complaints = Console(stderr=True)


def main() -> None:
    """Run the command line."""
    app()


@app.command("list")
def list_abilities() -> None:
    """List what this version can do."""
    table = Table("command", "what it does", title=f"attacker-client {version_of('attacker-client')}")
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__ is not None
        table.add_row(command.name or command.callback.__name__, escape(command.callback.__doc__.splitlines()[0]))
    console.print(table)
    console.print("Attacks: none. This version can query an endpoint; it can't clone one yet.")


@app.command()
def ask(
    url: Annotated[str, typer.Argument(help="The endpoint: http://HOST:PORT, with or without /predict.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", exists=True, dir_okay=False, help="JPEG, PNG or WebP files.")],
    *,
    api_key: Annotated[str | None, typer.Option(envvar="ATTACKER_CLIENT_API_KEY", help="Sent as Authorization: Bearer KEY.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Queries under way at a time.")] = 4,
    attempts: Annotated[int, typer.Option(min=1, help="Tries an image before a busy or unreachable endpoint is given up.")] = 5,
    i_own_this: Annotated[
        str | None, typer.Option(metavar="URL", help="Repeat a target that is not loopback: you may only ask what is yours.")
    ] = None,
) -> None:
    """Ask an endpoint about images and print what it says."""
    try:
        target = predict_url(url)
        owned = i_own_this is not None and predict_url(i_own_this) == target
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not is_loopback(target) and not owned:
        raise typer.BadParameter(f"{url} is not this machine. If it is yours to attack, say so: --i-own-this {url}")
    oracle = Oracle(url, api_key=api_key, attempts=attempts)
    answers = asyncio.run(_ask_all(oracle, [path.read_bytes() for path in images], concurrency=concurrency))
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


async def _ask_all(oracle: Oracle, images: Sequence[bytes], *, concurrency: int) -> list[OracleAnswer | OracleError]:
    async with oracle:
        return await oracle.ask_many(images, concurrency=concurrency)
