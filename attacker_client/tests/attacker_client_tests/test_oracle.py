"""The oracle asks a real server, counts what it sends, and waits as it is told."""

import asyncio
import socket
from collections.abc import Callable
from random import Random

import pytest

from attacker_client.errors import BadImage, Garbled, OracleError, Refused, Unreachable
from attacker_client.oracle import Oracle
from attacker_client.wire import OracleAnswer

from .conftest import Handler, Naps, Request, Response, answer, problem

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], str]
JPEG = b"\xff\xd8\xff\xe0 a picture"


async def test_answer_and_request(serve: Serve) -> None:
    """The image goes out as it is with its type and the key, and the answer comes back typed."""
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return answer(("cat", 3, 0.9), ("dog", 5, 0.1))

    async with Oracle(serve(handler), api_key="k-1") as oracle:
        got = await oracle.ask(JPEG)
        await oracle.ask(JPEG, media_type="image/webp")
    assert (got.label, got.class_id, got.scores, len(got.entries)) == ("cat", 3, (0.9, 0.1), 2)
    assert (oracle.queries_sent, oracle.queries_answered) == (2, 2)
    assert (seen[0].path, seen[0].body) == ("/predict", JPEG)
    assert (seen[0].headers["content-type"], seen[0].headers["authorization"]) == ("image/jpeg", "Bearer k-1")
    assert seen[1].headers["content-type"] == "image/webp"


async def test_no_key_no_header(serve: Serve) -> None:
    """Without a key nothing is said about one."""
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return answer(("cat", 3, None))

    async with Oracle(serve(handler)) as oracle:
        assert (await oracle.ask(JPEG)).scores is None
    assert "authorization" not in seen[0].headers


async def test_busy_then_answered(serve: Serve) -> None:
    """A 503 is waited out: never shorter than Retry-After, and with growing jitter on top."""
    replies = [problem(503, "Busy", Retry_After="7"), problem(503, "Busy"), answer(("cat", 3, 1.0))]

    async def handler(request: Request) -> Response:
        assert request.body == JPEG
        return replies.pop(0)

    naps = Naps()
    async with Oracle(serve(handler), backoff=2.0, sleep=naps, random=Random(1)) as oracle:
        assert (await oracle.ask(JPEG)).label == "cat"
    assert (oracle.queries_sent, oracle.queries_answered) == (3, 1)
    draw = Random(1)
    assert naps.seconds == [7.0 + draw.uniform(0, 2.0), draw.uniform(0, 4.0)]


async def test_retry_after_as_a_date(serve: Serve) -> None:
    """A Retry-After that names a date is counted from the oracle's own clock."""
    replies = [problem(429, "Quota", Retry_After="Thu, 01 Jan 1970 00:01:40 GMT"), answer(("cat", 3, 1.0))]

    async def handler(request: Request) -> Response:  # noqa: ARG001 - a handler's signature
        return replies.pop(0)

    naps = Naps()
    async with Oracle(serve(handler), backoff=0.0, clock=lambda: 90.0, sleep=naps) as oracle:
        await oracle.ask(JPEG)
    assert naps.seconds == [10.0]


async def test_quota_for_ever(serve: Serve) -> None:
    """A 429 that doesn't end is given up after the stated attempts, with the wait it asked for."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return problem(429, "Quota used up", Retry_After="2")

    naps = Naps()
    async with Oracle(serve(handler), attempts=3, sleep=naps) as oracle:
        with pytest.raises(Refused, match=r"429.*Quota used up") as refusal:
            await oracle.ask(JPEG)
    assert (refusal.value.status, refusal.value.retry_after) == (429, 2.0)
    assert (oracle.queries_sent, oracle.queries_answered, len(naps.seconds)) == (3, 0, 2)


async def test_a_wait_too_long_is_not_begun(serve: Serve) -> None:
    """An endpoint that asks for an hour is Refused at once, not asked early."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return problem(503, "Draining", Retry_After="3600")

    naps = Naps()
    async with Oracle(serve(handler), sleep=naps) as oracle:
        with pytest.raises(Refused):
            await oracle.ask(JPEG)
    assert (oracle.queries_sent, naps.seconds) == (1, [])


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (problem(401, "Key needed"), Refused),
        (problem(403, "Suspended"), Refused),
        (problem(413, "Too large"), BadImage),
        (problem(415, "Not an image type"), BadImage),
        (problem(422, "Not an image"), BadImage),
        (problem(404, "Not found"), Garbled),
        (Response(b"<html>oops", status=400), Garbled),
        (Response(b"", status=302, headers={"location": "http://example.org/"}), Garbled),
        (Response(b"{not json"), Garbled),
        (Response({"hello": "world"}), Garbled),
        (Response(b"not gzip", headers={"content-encoding": "gzip"}), Garbled),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Response) else value.__name__,
)
async def test_errors_are_told_apart(serve: Serve, response: Response, error: type[OracleError]) -> None:
    """Each kind of failure is its own exception and isn't tried again; a redirect is not followed."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return response

    async with Oracle(serve(handler), sleep=Naps()) as oracle:
        with pytest.raises(error):
            await oracle.ask(JPEG)
    assert (oracle.queries_sent, oracle.queries_answered) == (1, 0)


@pytest.mark.parametrize(("status", "error"), [(408, Unreachable), (500, Garbled), (502, Unreachable), (504, Unreachable)])
async def test_trouble_is_waited_out(serve: Serve, status: int, error: type[OracleError]) -> None:
    """A server in trouble is tried again like a broken connection. When it stays so, a 500 may be this image's fault."""
    replies = [problem(status, "Oops"), problem(status, "Oops"), answer(("cat", 3, 1.0)), *[problem(status, "Oops")] * 3]

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return replies.pop(0)

    naps = Naps()
    async with Oracle(serve(handler), attempts=3, sleep=naps) as oracle:
        assert (await oracle.ask(JPEG)).label == "cat"
        with pytest.raises(error, match=f"{status}.*Oops"):
            await oracle.ask(JPEG)
    assert (oracle.queries_sent, oracle.queries_answered, oracle.total.refused, len(naps.seconds)) == (6, 1, 0, 4)


async def test_closed_port() -> None:
    """Where nobody listens the endpoint is Unreachable, after the stated attempts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        async with Oracle(url, attempts=2, sleep=Naps()) as oracle:
            with pytest.raises(Unreachable):
                await oracle.ask(JPEG)
    assert oracle.queries_sent == 2


async def test_many_keep_order_and_bound(serve: Serve) -> None:
    """Answers come in the images' order though they finish in another, never more than `concurrency` under way."""
    under_way, most = 0, 0

    async def handler(request: Request) -> Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        row = int(request.body)
        await asyncio.sleep(0.02 if row % 3 == 0 else 0.001)
        under_way -= 1
        return answer((f"class {row}", row, None))

    async with Oracle(serve(handler)) as oracle:
        got = await oracle.ask_many([str(row).encode() for row in range(40)], concurrency=5)
    assert [a.class_id for a in got if isinstance(a, OracleAnswer)] == list(range(40))
    assert most == 5
    assert (oracle.queries_sent, oracle.queries_answered) == (40, 40)


async def test_many_survive_a_bad_image(serve: Serve) -> None:
    """One bad image costs its own answer only."""

    async def handler(request: Request) -> Response:
        return problem(422, "Not an image") if request.body == b"1" else answer(("cat", 3, None))

    async with Oracle(serve(handler)) as oracle:
        got = await oracle.ask_many([b"0", b"1", b"2"], concurrency=1)
    assert [type(a) for a in got] == [OracleAnswer, BadImage, OracleAnswer]


async def test_many_stop_when_refused(serve: Serve) -> None:
    """After a refusal the rest isn't sent, and says so in its place."""

    async def handler(request: Request) -> Response:
        return answer(("cat", 3, None)) if request.body == b"0" else problem(403, "Suspended")

    async with Oracle(serve(handler)) as oracle:
        got = await oracle.ask_many([b"0", b"1", b"2", b"3"], concurrency=1)
    assert [type(a) for a in got] == [OracleAnswer, Refused, Refused, Refused]
    assert oracle.queries_sent == 2


async def test_none_to_ask(serve: Serve) -> None:
    """No images, no answers, no requests."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return answer(("cat", 3, None))

    async with Oracle(serve(handler)) as oracle:
        assert await oracle.ask_many([]) == []
    assert oracle.queries_sent == 0
