"""The wire format is read strictly and written as restated."""

import pytest

from attacker_client import wire

ANSWER = b'{"id": "a", "model": {"name": "m", "version": "2"}, "created": 1, "predictions": [%s]}'


def test_top_k_answer() -> None:
    """Entries keep their order, and scores come with every entry."""
    answer = wire.read_answer(ANSWER % b'{"label": "cat", "class_id": 3, "score": 1}, {"label": "dog", "class_id": 5, "score": 0.25}')
    assert (answer.label, answer.class_id, answer.scores, answer.model) == ("cat", 3, (1.0, 0.25), "m 2")
    assert [entry.label for entry in answer.entries] == ["cat", "dog"]


def test_label_only_answer() -> None:
    """An answer without scores has none, not zeros."""
    assert wire.read_answer(ANSWER % b'{"label": "cat", "class_id": 3}').scores is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        ANSWER % b"",
        ANSWER % b"7",
        ANSWER % b'{"label": "cat"}',
        ANSWER % b'{"label": 3, "class_id": 3}',
        ANSWER % b'{"label": "cat", "class_id": "3"}',
        ANSWER % b'{"label": "cat", "class_id": true}',
        ANSWER % b'{"label": "cat", "class_id": -1}',
        ANSWER % b'{"label": "cat", "class_id": 100000}',
        ANSWER % b'{"label": "cat", "class_id": 3, "score": "high"}',
        ANSWER % b'{"label": "cat", "class_id": 3, "score": NaN}',
        ANSWER % b'{"label": "cat", "class_id": 3, "score": -Infinity}',
        ANSWER % (b'{"label": "cat", "class_id": 3, "score": 1%s}' % (b"0" * 400)),
        b'{"id": "a", "model": "m", "predictions": [{"label": "cat", "class_id": 3}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_answer(body: bytes) -> None:
    """A body outside the wire format is a ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError, match="answer"):
        wire.read_answer(body)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("soon", None),
        ("-1", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Retry-After is read in seconds and as a date, and a date gone by asks for no wait."""
    assert wire.read_retry_after(value, now=60.0) == seconds


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"title": "Busy", "detail": "later"}', "Busy: later"),
        (b'{"title": "Busy"}', "Busy"),
        (b"<html>", ""),
        (b"[1]", ""),
        (b'{"title": 5}', ""),
    ],
)
def test_problem(body: bytes, text: str) -> None:
    """A problem's words are kept, and a body that is no problem has none."""
    assert wire.read_problem(body) == text


@pytest.mark.parametrize(
    ("image", "media_type"),
    [
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\nrest", "image/png"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_media_type(image: bytes, media_type: str) -> None:
    """An image's first bytes tell its type."""
    assert wire.media_type_of(image) == media_type


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/predict", "http://h:1/predict/"])
def test_predict_url(url: str) -> None:
    """The server's address and the full one mean the same."""
    assert wire.predict_url(url) == "http://h:1/predict"


@pytest.mark.parametrize("url", ["h:1", "ftp://h", "http://", "http://h:99999", "http://h:0", ""])
def test_not_an_address(url: str) -> None:
    """What is no HTTP address is refused before anything is sent."""
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        wire.predict_url(url)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8000", True),
        ("http://localhost:8000", True),
        ("http://0.0.0.0:8000", False),
        ("http://10.0.0.1", False),
        ("http://example.org", False),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1@example.org", False),
    ],
)
def test_loopback(url: str, loopback: bool) -> None:  # noqa: FBT001 - a column of the table
    """Only an address that says it is this machine counts as this machine."""
    assert wire.is_loopback(url) is loopback
