"""The audit log as operators read it, page by page."""

from collections.abc import Iterator
from typing import Any

from tests.server import RunningServer


def records(server: RunningServer) -> Iterator[dict[str, Any]]:
    """All records, oldest first."""
    after = 0
    while True:
        page: dict[str, Any] = server.admin(f"/admin/v1/audit?after={after}&limit=1000").json()
        if not page["records"]:
            return
        yield from page["records"]
        after = page["next"]


def audited_ids(server: RunningServer) -> list[str]:
    """The request ids of all answers, oldest first; operators' acts have none."""
    return [record["request_id"] for record in records(server) if "request_id" in record]


def records_by_request(server: RunningServer) -> dict[str, dict[str, Any]]:
    """The record of every answer, by its request id."""
    return {record["request_id"]: record for record in records(server) if "request_id" in record}
