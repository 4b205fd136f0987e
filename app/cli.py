"""The command line `cloneguard`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from app import __version__, auditing, bundling, calibrating, demo, detecting, verifying
from app.accounts import AccountError
from app.accounts.command import keys
from app.documents import ConflictError, DocumentsError
from app.keys import SecretError
from app.profiles import PROFILES
from app.recognizers import RecognizerError
from app.settings import Settings, SettingsError, read_settings
from app.settings_table import settings_table
from defenses.calibration import CalibrationError
from defenses.clone_detection.bank import BankError
from defenses.clone_detection.sampling import NoBoundaryError
from defenses.evidence.null_rate import NullRateError
from defenses.stores.protocol import StoreError
from models.manifest import BundleError

EXIT_USAGE = 2  # a wrong command or setting
EXIT_UNUSABLE = 3  # a model, store, secret or port that can't be used; nothing was served
UNUSABLE = (
    BundleError, CalibrationError, StoreError, SecretError, DocumentsError, ConflictError, RecognizerError, BankError, NoBoundaryError,
    NullRateError, OSError,
)  # fmt: skip

EXAMPLE = Path("docs/images/ship.jpg")  # of the repository, where the server is first tried

app = typer.Typer(
    help="An image-recognition service that can be asked but not cloned.", no_args_is_help=True, pretty_exceptions_enable=False
)
console = Console()

SetOption = Annotated[list[str] | None, typer.Option("--set", help="One setting: section.key=value; repeatable.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
ProfileOption = Annotated[str | None, typer.Option(help=f"Named settings: {', '.join(PROFILES)}.")]
StateOption = Annotated[Path | None, typer.Option(help="Directory of the secret, the admin token and the store.")]
BundleOption = Annotated[str | None, typer.Option(help="Name or directory of a bundle.")]


@app.command()
def serve(
    *,
    profile: ProfileOption = None,
    assignments: SetOption = None,
    config: ConfigOption = None,
    state: StateOption = None,
    bundle: BundleOption = None,
    host: Annotated[str | None, typer.Option(help="Address of the public port.")] = None,
    port: Annotated[int | None, typer.Option(help="Public port.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Admin port.")] = None,
    store: Annotated[str | None, typer.Option(help="Store URL.")] = None,
) -> None:
    """Serve a recognizer behind the defence pipeline."""
    settings = _settings(profile, assignments, config, state, bundle, host=host, port=port, admin_port=admin_port, store=store)
    from app.server import run  # noqa: PLC0415, the other commands need no server

    start = asyncio.run
    if sys.platform != "win32":
        import uvloop  # noqa: PLC0415, does not exist on Windows

        start = uvloop.run
    start(run(settings, announce=_announce))


app.command()(bundling.bundle)
app.command()(calibrating.calibrate)
app.command()(auditing.audit)
app.command()(detecting.detect)
app.command()(verifying.verify)
app.command()(demo.demo)
app.add_typer(keys, name="keys")


@app.command("config")
def show_config(
    *, profile: ProfileOption = None, assignments: SetOption = None, config: ConfigOption = None, state: StateOption = None,
    bundle: BundleOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of docs/settings.md instead.")] = False,
) -> None:  # fmt: skip
    """Print every setting in force as JSON, or the table of all settings and profiles."""
    if markdown:
        sys.stdout.write(settings_table())
        return
    settings = _settings(profile, assignments, config, state, bundle)
    sys.stdout.buffer.write(orjson.dumps(settings.policy(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the public port."""
    from app.public.application import create_app  # noqa: PLC0415, the other commands need no server

    document = create_app(Settings()).openapi()
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


def main() -> None:
    """Run the command line; what the world did wrong is one line on standard error, and an exit code."""
    try:
        app()
    except (SettingsError, AccountError) as error:
        sys.exit(_say(error, EXIT_USAGE))
    except UNUSABLE as error:
        sys.exit(_say(error, EXIT_UNUSABLE))


def _settings(
    profile: str | None, assignments: list[str] | None, config: Path | None, state: Path | None, bundle: str | None, *,
    host: str | None = None, port: int | None = None, admin_port: int | None = None, store: str | None = None,
) -> Settings:  # fmt: skip
    options: dict[str, Any] = {
        "profile": profile,
        "state": state,
        "server": {"host": host, "port": port},
        "model": {"bundle": bundle},
        "store": {"url": store},
        "admin": {"port": admin_port},
    }
    given: dict[str, Any] = {}
    for name, value in options.items():
        said = {key: v for key, v in value.items() if v is not None} if isinstance(value, dict) else value
        if said not in (None, {}):
            given[name] = said
    return read_settings(file=config, assignments=assignments or (), **given)


def _say(error: Exception, code: int) -> int:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"cloneguard: {error}")
    return code


def _announce(service: Any, public: str, admin: str) -> None:
    manifest = service.bundle.manifest
    now = service.policies.in_force
    policy = f"\n  policy   version {now.live_version} in force, above the settings given here" if now.live_version else ""
    picture = EXAMPLE if EXAMPLE.is_file() else "PICTURE.jpg"
    console.print(
        f"[bold]cloneguard {__version__}[/] serves [bold]{manifest.name} {manifest.version}[/] ({service.bundle.precision}, "
        f"{service.bundle.providers[0]}) under profile [bold]{now.live.settings.profile}[/]\n"
        f"  address  {public}\n"
        f"  try      curl -sS -H 'Content-Type: image/jpeg' --data-binary @{picture} {public}/predict\n"
        f"  metrics  {admin}/metrics\n"
        f"  admin    {admin}/admin/ui (user admin, password in {service.settings.state / 'admin-token'}){policy}",
        highlight=False,
        soft_wrap=True,
    )
