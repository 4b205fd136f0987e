"""`cloneguard audit`: check that nobody changed the audit log."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.keys import derive, load_or_create
from app.settings import read_settings
from defenses.stores import open_store
from defenses.stores.chain import GENESIS, verify

PAGE = 1000  # records read at once


def audit(
    *,
    state: Annotated[Path, typer.Option(help="State directory of the service, which must not be running.")] = Path("state"),
    store: Annotated[str, typer.Option(help="Store URL; default: sqlite:///STATE/cloneguard.db.")] = "",
) -> None:
    """Check every record of the audit log against the chain; exit code 1 names the first bad one."""
    settings = read_settings(state=state, store={"url": store})
    records, bad = asyncio.run(check(settings.store_url(), key=derive(load_or_create(state, "secret", settings.secret), "audit")))
    if bad is not None:
        typer.echo(f"record {bad} does not fit the chain: it, or one before it, was changed, removed or added", err=True)
        raise typer.Exit(1)
    typer.echo(f"{records} records, each fits the one before it")


async def check(url: str, *, key: bytes) -> tuple[int, int | None]:
    """How many records were read, and the sequence number of the first bad one. Raises StoreError."""
    store = await open_store(url, index="audit", audit_key=key)
    try:
        after, previous = 0, GENESIS
        while records := await store.audit(after=after, limit=PAGE):
            bad = verify(key, records, previous, after=after)
            if bad is not None:
                return after, bad
            after, previous = records[-1].sequence, records[-1].link
        return after, None
    finally:
        await store.close()
