"""The wire format, restated in one file: this client shares no code with any server.

Request:  POST /predict, body = the image file itself, Content-Type image/jpeg, image/png or image/webp,
          Authorization: Bearer KEY where the endpoint asks for one.
Answer:   200 {"id", "model": {"name", "version"}, "predictions": [{"label", "class_id", "score"?}, ...], "created"},
          predictions best first; score is absent where the endpoint tells labels only.
Error:    application/problem+json {"title", "status", "detail"?}; Retry-After with 429 and 503.
"""

import json
import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

MOST_CLASSES = 100_000  # above any recognizer's; every answer bought has a column a class
_OPENINGS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


class Entry(NamedTuple):
    """One class of an answer; `score` is None where the endpoint tells labels only. A tuple: every answer has ten or a thousand."""

    label: str
    class_id: int
    score: float | None


@dataclass(frozen=True, slots=True)
class OracleAnswer:
    """What the endpoint said about one image: `entries` best first, at least one; `model` is "name version"."""

    id: str
    model: str
    entries: tuple[Entry, ...]

    @property
    def label(self) -> str:
        """The best class."""
        return self.entries[0].label

    @property
    def class_id(self) -> int:
        """The best class, as the endpoint numbers it."""
        return self.entries[0].class_id

    @property
    def scores(self) -> tuple[float, ...] | None:
        """The scores in the order of `entries`, or None unless every entry has one."""
        scores = tuple(entry.score for entry in self.entries if entry.score is not None)
        return scores if len(scores) == len(self.entries) else None


class Dialect(Protocol):
    """How one kind of endpoint is spoken to."""

    @property
    def url(self) -> str:
        """The address that requests are POSTed to."""
        ...

    def request(self, image: bytes, *, media_type: str | None = None) -> tuple[bytes, str]:
        """The body and the Content-Type of the request for one image file."""
        ...

    def read(self, body: bytes) -> OracleAnswer:
        """Read the body of a 200; raises ValueError where it can't be read."""
        ...


@dataclass(frozen=True, slots=True)
class Predict:
    """The dialect of this file: the image file itself is the body."""

    url: str

    def request(self, image: bytes, *, media_type: str | None = None) -> tuple[bytes, str]:
        """The image as it is, with the type that its first bytes tell."""
        return image, media_type or media_type_of(image)

    def read(self, body: bytes) -> OracleAnswer:
        """See `read_answer`."""
        return read_answer(body)


def read_answer(body: bytes) -> OracleAnswer:
    """Read the body of a 200; raises ValueError where it isn't one of the wire format's."""
    try:
        document = json.loads(body)
        entries = tuple(_read_entry(row) for row in document["predictions"])
        model = f"{document['model']['name']} {document['model']['version']}"
        answer = OracleAnswer(id=str(document["id"]), model=model, entries=entries)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"not an answer of the wire format ({type(error).__name__}: {error})") from error
    if not entries:
        raise ValueError("an answer without predictions")
    return answer


def _read_entry(row: dict[str, object]) -> Entry:
    label, class_id, score = row["label"], row["class_id"], row.get("score")
    if not isinstance(label, str) or not isinstance(class_id, int) or not isinstance(score, int | float | None):
        raise TypeError(f"a prediction that reads {row}")
    if isinstance(class_id, bool) or not 0 <= class_id < MOST_CLASSES or not math.isfinite(score or 0):
        raise ValueError(f"a prediction that reads {row}")
    return Entry(label=label, class_id=class_id, score=None if score is None else float(score))


def read_problem(body: bytes) -> str:
    """The text of a problem+json body, or "" for any other body: errors of proxies are not ours to read."""
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    return ": ".join(text for text in (document.get("title"), document.get("detail")) if isinstance(text, str))


def read_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds to wait by a Retry-After header, which counts seconds or names a date; None if it says neither.

    `now` is in seconds since the epoch.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def media_type_of(image: bytes) -> str:
    """The Content-Type of an image file by its first bytes; what is none of the three is for the endpoint to refuse."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return next((name for opening, name in _OPENINGS if image.startswith(opening)), "application/octet-stream")


def predict_url(url: str) -> str:
    """The address images are POSTed to; `url` may be the server's own address or end in /predict already."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"{url!r} is not an http:// or https:// address")
    path = parts.path.rstrip("/").removesuffix("/predict") + "/predict"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def is_loopback(url: str) -> bool:
    """Whether the address is this machine by its own spelling: a name that merely resolves to it doesn't count."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
