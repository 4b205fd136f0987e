"""A5: bodies that lie about themselves."""

import json
from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.abuse.images import encode, picture
from tests.abuse.raw_http import connect, read_all, statuses
from tests.server import RunningServer

LIMIT = 10 * 2**20  # server.max_body_bytes
SLACK = 64 * 2**10
JPEG = {"Content-Type": "image/jpeg"}


def bytes_read(server: RunningServer) -> int:
    """What the process has read from sockets and files since its start (bytes): what the kernel alone buffers is not in it."""
    counters = psutil.Process(server.pid).io_counters()
    assert isinstance(counters.read_chars, int)
    return counters.read_chars


def head(*headers: str, path: str = "/predict") -> bytes:
    """The head of a POST."""
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", "Content-Type: image/jpeg", *headers, "", "")).encode()


@pytest.mark.abuse
def test_the_measure_counts_what_comes_over_the_network(server: RunningServer) -> None:
    """A body that is read shows up in `bytes_read`, so its silence in the other tests means something."""
    before = bytes_read(server)
    httpx.post(f"{server.url}/predict", content=bytes(2**20), headers=JPEG)
    assert bytes_read(server) - before >= 2**20


@pytest.mark.abuse
def test_an_announced_excess_is_not_read(server: RunningServer, figure: Callable[..., None]) -> None:
    """A length above the limit is 413 at once, whatever is sent."""
    before = bytes_read(server)
    with connect(server.port) as connection:
        connection.sendall(head(f"Content-Length: {10**12}"))
        try:
            for _ in range(64):
                connection.sendall(bytes(2**20))
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert statuses(read_all(connection)) == [413]
    read = bytes_read(server) - before
    assert read <= LIMIT + SLACK
    figure(f"of an announced 1 TB {read:,} bytes were read")


@pytest.mark.abuse
def test_endless_chunks_are_cut_off_at_the_limit(server: RunningServer, figure: Callable[..., None]) -> None:
    """Of a gigabyte in chunks no more is read than the limit and 64 KB."""
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    before, sent = bytes_read(server), 0
    with connect(server.port) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        try:
            while sent < 2**30:
                connection.sendall(chunk)
                sent += 65_536
        except (ConnectionResetError, BrokenPipeError):
            pass
        answered = statuses(read_all(connection))
    assert sent < 2**30
    assert answered in ([413], [])  # a sender that does not look for an answer may lose it to the reset
    read = bytes_read(server) - before
    assert read <= LIMIT + SLACK
    figure(f"of 1 GB in chunks {read - LIMIT:+,} bytes beyond the limit")


@pytest.mark.abuse
def test_a_body_shorter_than_announced_is_forgotten(server: RunningServer) -> None:
    """A sender that hangs up in the middle of its body is no query, and costs nobody anything."""
    before = server.metric("cloneguard_queries_total", outcome="answered")
    for _ in range(50):
        with connect(server.port) as connection:
            connection.sendall(head("Content-Length: 100000") + encode(picture(5), "JPEG"))
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert server.metric("cloneguard_queries_total", outcome="answered") == before


@pytest.mark.abuse
def test_a_body_longer_than_announced_is_no_request(server: RunningServer) -> None:
    """What follows the announced length is garbage: one answer for the first part, then 400 and the end."""
    image = encode(picture(5), "JPEG")
    with connect(server.port, timeout=5) as connection:
        connection.sendall(head(f"Content-Length: {len(image)}") + image + b"\x00" * 1000)
        answered = statuses(read_all(connection))
    assert answered in ([200], [200, 400])


@pytest.mark.abuse
@pytest.mark.parametrize("named", [True, False], ids=["files", "fields"])
def test_forms_of_10000_parts_are_400(server: RunningServer, *, named: bool) -> None:
    """A form with more than its one file is refused."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"' + (b'; filename="x"' if named else b"") + b"\r\n\r\nx\r\n"
    response = httpx.post(
        f"{server.url}/predict", content=part * 10_000 + b"--b--\r\n", headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.abuse
@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "image/gif", "image/tiff", "image/jpeg2", "application/x-www-form-urlencoded", "image/jpeg, image/png"]
)
def test_other_media_types_are_415(server: RunningServer, media_type: str) -> None:
    """What nobody documented is not looked at, and neither endpoint guesses."""
    headers = {"Content-Type": media_type} if media_type else {}
    for path in ("/predict", "/v2/models/cifar10/infer"):
        response = httpx.post(f"{server.url}{path}", content=encode(picture(5), "JPEG"), headers=headers)
        assert response.status_code == 415
        assert response.headers["content-type"] == "application/problem+json"


BAD_JSON = {
    "empty": b"",
    "not JSON": b"{",
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"image":' * 100_000,
    "null": b"null",
    "no image": b"{}",
    "image is text": b'{"image": "x"}',
    "b64 is a number": b'{"image": {"b64": 1e999}}',
    "b64 is a list": b'{"image": {"b64": [1]}}',
    "not base64": '{"image": {"b64": "é"}}'.encode(),
    "half a surrogate": b'{"image": {"b64": "\\ud800"}}',
    "not UTF-8": b'{"image": {"b64": "\xff"}}',
    "huge number": b'{"image": ' + b"9" * 100_000 + b"}",
    "shape lies": json.dumps({"inputs": [{"name": "image", "shape": [2**62], "datatype": "BYTES", "data": ["AA=="]}]}).encode(),
    "negative shape": json.dumps({"inputs": [{"name": "image", "shape": [-1], "datatype": "BYTES", "data": ["AA=="]}]}).encode(),
    "many images": json.dumps({"inputs": [{"name": "image", "shape": [9999], "datatype": "BYTES", "data": ["AA=="] * 9999}]}).encode(),
    "many tensors": json.dumps({"inputs": [{"name": "image", "shape": [0], "datatype": "BYTES", "data": []}] * 9999}).encode(),
}


@pytest.mark.abuse
@pytest.mark.parametrize("path", ["/predict", "/v2/models/cifar10/infer"])
@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json_is_400(server: RunningServer, path: str, body: bytes) -> None:
    """JSON that is damaged, deep or of another shape is 400 with a problem document."""
    response = httpx.post(f"{server.url}{path}", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.abuse
@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=other"])
def test_broken_forms_are_400(server: RunningServer, content_type: str) -> None:
    """A form without its boundary is not a form."""
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nx\r\n--b--\r\n'
    assert httpx.post(f"{server.url}/predict", content=form, headers={"Content-Type": content_type}).status_code == 400
