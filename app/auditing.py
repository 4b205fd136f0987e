"""`cloneguard audit`: check that nobody changed the audit log."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from app.keys import SecretError, derive, load_or_create
from app.settings import read_settings
from defenses.stores import open_store
from defenses.stores.chain import verify

PAGE = 1000  # records read at once
READ_SECONDS = 5.0  # nobody waits for an answer


def audit(
    *,
    state: Annotated[Path | None, typer.Option(help="State directory of the service, which must not be running.")] = None,
    store: Annotated[str | None, typer.Option(help="Store URL; default: sqlite:///STATE/cloneguard.db.")] = None,
) -> None:
    """Check every record of the audit log against the chain; exit code 1 names the first bad one."""
    given: dict[str, Any] = {"state": state, "store": {"url": store} if store else None}
    settings = read_settings(**{name: value for name, value in given.items() if value})
    if settings.secret is None and not (settings.state / "secret").is_file():
        raise SecretError(f"no secret in {settings.state}: the chain can only be checked with the one it was made with")
    key = derive(load_or_create(settings.state, "secret", settings.secret), "audit")
    records, bad = asyncio.run(check(settings.store_url(), key=key))
    if bad is not None:
        typer.echo(f"record {bad} does not fit the chain: it, or one before it, was changed, removed or added", err=True)
        raise typer.Exit(1)
    typer.echo(f"{records} records, each fits the one before it")


async def check(url: str, *, key: bytes) -> tuple[int, int | None]:
    """How many records were read, and the sequence number of the first bad one. Raises StoreError."""
    store = await open_store(url, index="audit", audit_key=key, timeout_seconds=READ_SECONDS)
    try:
        after, previous = await store.audit_start()
        records_before = after
        while records := await store.audit(after=after, limit=PAGE):
            bad = verify(key, records, previous, after=after)
            if bad is not None:
                start = await store.audit_start()
                if start[0] <= after:
                    return after - records_before, bad
                after, previous = start  # older records were cut off meanwhile
                records_before = after
            else:
                after, previous = records[-1].sequence, records[-1].link
        return after - records_before, None
    finally:
        await store.close()
