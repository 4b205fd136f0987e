"""What the service must survive: every row of `make abuse`, with what happens and the figure that it has to reach."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of trouble, and its bar."""

    happens: str
    bar: str


ROWS = {
    "L1": Row("0.7 R0 for 2 min", "0 errors, RSS slope < 1 MB/min, file descriptors flat"),
    "L2": Row(
        "3 R0 open loop, 60 s, generator pinned to one core",
        "goodput >= 85% of R0; refusals' p99 <= 100 ms, each with Retry-After; health and metrics < 250 ms throughout",
    ),
    "F1": Row(
        "kill -9 Redis under 0.5 R0, back after 20 s",
        "0 5xx; p99 <= baseline + 60 ms; degraded gauge up in 2 s, cleared in 5 s after return",
    ),
    "F2": Row("Redis stopped (SIGSTOP) for 30 s", "each request waits <= 50 ms until the breaker opens, then 0"),
    "F3": Row(
        "Redis empty after restart; wrong types and garbage in our keys; out of memory; READONLY",
        "0 5xx; founders and unjoined images: same answer before and after, 1,000 of 1,000; joiners reported",
    ),
    "F4": Row(
        "kill -9 the server 20 times under load, embedded store",
        "only in-flight requests lost; every answered request is in the audit log; near-duplicates still found",
    ),
    "F5": Row("SIGTERM rolling two replicas behind nginx, 20 times", "0 failed of 10,000"),
    "F6": Row("two replicas + Redis, 2,000 near-duplicate groups x 5 variants sent to both at once", "0 disagreements"),
    "F7": Row("clock steps of +-1 h and -24 h (libfaketime)", "no quota refunded, audit order kept"),
    "F8": Row("audit log on a full disk", "exact count of dropped records and an alert, or 503 when audit is required; never silent"),
    "F9": Row("no, truncated, wrong-shaped model", "never ready; exit 3 with one clear line within 5 s"),
    "F10": Row("8 threads add and search the index, 60 s", "0 crashes, 0 lost inserts"),
    "A1": Row(
        "10,000 mutated JPEG/PNG/WebP (bit flips, truncation at every offset, spliced chunks), fixed seed",
        "0 5xx, 0 crashes, <= 1 s each, RSS <= +100 MB",
    ),
    "A2": Row(
        "bombs: 9400^2 and 60000^2 PNG, 5,000-scan JPEG, zTXt and iCCP 200 MB, 16-bit, CMYK, 10,000-frame WebP, TIFF/EPS/ICNS named .jpg",
        "each answered in <= 150 ms, <= +100 MB",
    ),
    "A3": Row(
        "slowloris: 1,000 half headers, 200 slow bodies, 200 silent sockets, 60 s",
        "valid p99 <= 2 x baseline; closed at 5 s (header) and 15 s (body)",
    ),
    "A4": Row("12 smuggling and parsing vectors", "0 second requests executed"),
    "A5": Row(
        "lying Content-Length, chunked 1 GB, 10,000 multipart parts, wrong type",
        "bytes read <= limit + 64 KB; 413, 415 or 400",
    ),
    "A6": Row("schemathesis over the OpenAPI document, >= 200 examples an operation", "0 server errors, 0 undocumented answers"),
    "A7": Row("no, garbage, revoked, other client's key on every route", "the 401/403 table exactly; constant-time comparison"),
    "A8": Row("10,000 random paths, keys, request ids", "<= 50 new metric series"),
    "A9": Row(
        "timing of near-duplicate hits, misses and misrecognised answers, 2,000 each",
        "AUC <= 0.55; same header set, same body shape",
    ),
    "A10": Row("500 parallel requests, limit 100, two replicas", "exactly 100 answered"),
    "A11": Row(
        "forged X-Forwarded-For and request ids, control characters in file names",
        "identity unchanged, log lines stay valid JSON",
    ),
    "A12": Row("search of logs, metrics, audit and errors for keys, secrets and image bytes", "0 hits"),
    "A13": Row("1,000 random edits of the audit log", "1,000 found, first bad record named"),
    "A14": Row("admin routes from the public port", "404"),
    "C1": Row(
        "attacker client killed 10 times and resumed",
        "intents logged before sending; server's count minus the ledger's answers between 0 and the requests in flight at the kills",
    ),
    "C2": Row("target answers 429, 503, hangs, garbage", "respects Retry-After, stops at its budget, says how many failed"),
}


def row_named(*docstrings: str | None) -> str | None:
    """The row that the first of these docstrings begins with ("F1: ..."), if any does."""
    for text in docstrings:
        found = re.match(r"([LFAC]\d+)\b", text or "")
        if found and found[1] in ROWS:
            return found[1]
    return None
