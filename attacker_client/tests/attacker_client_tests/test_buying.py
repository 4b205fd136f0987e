"""The buyer spends its budget exactly, asks about nothing twice, and keeps every answer that was on its way."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attacker_client.buying import LedgerBuyer
from attacker_client.errors import BadImage, Garbled, Refused, Unreachable
from attacker_client.identities import Identity, identities
from attacker_client.ledger import Ledger
from attacker_client.oracle import Oracle
from attacker_client.transfer_set import Images

from .conftest import Handler, Request, Response, answer, problem

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], str]


def pictures(n: int, *, seed: int = 0) -> Images:
    """Images that all differ; the first pixel's red tells which is which (n up to 256)."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return images


class Endpoint:
    """An endpoint of 10 classes that remembers who asked what; class and score hang on the first pixel."""

    def __init__(self, reply: Callable[[int], Response] | None = None) -> None:
        self.asked: list[int] = []
        self.digests: list[bytes] = []
        self.requests: list[Request] = []
        self.under_way = self.most = 0
        self._reply = reply or (lambda pixel: answer((f"class {pixel % 10}", pixel % 10, 0.75), ("class 9", 9, 0.25)))

    async def __call__(self, request: Request) -> Response:
        with Image.open(BytesIO(request.body)) as file:
            pixel = int(np.asarray(file)[0, 0, 0])
        self.asked.append(pixel)
        self.digests.append(sha256(request.body).digest())
        self.requests.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.002 * (1 + pixel % 3))
        self.under_way -= 1
        return self._reply(pixel)


@asynccontextmanager
async def buyer(url: str, path: Path, *, who: list[Identity] | None = None, **options: Any) -> AsyncIterator[LedgerBuyer]:
    """A buyer with a ledger in `path`, which is gone on with if it is there."""
    who = who or identities(1, url=url)
    oracles = [Oracle(url, headers=i.headers, local_address=i.local_address, attempts=2, backoff=0.01) for i in who]
    with Ledger.open(path / "ledger.sqlite", {"target": url}, resume=True) as ledger:
        for oracle in oracles:
            await oracle.__aenter__()
        try:
            given: dict[str, Any] = {"budget": 1000, "purpose": "attack", **options}
            yield LedgerBuyer(oracles, ledger, names=[i.name for i in who], **given)
        finally:
            for oracle in oracles:
                await oracle.__aexit__(None, None, None)


async def test_rows_answer_their_images(serve: Serve, tmp_path: Path) -> None:
    """Answers finish in any order and stand in the images' order, untold classes are NaN, and the bound on queries under way is used."""
    endpoint = Endpoint(lambda pixel: answer((f"class {pixel % 7}", pixel % 7, 0.75), ("class 7", 7, 0.25)))
    images = pictures(60)
    told: list[int] = []
    async with buyer(serve(endpoint), tmp_path, concurrency=5, on_answer=told.append) as bought:
        got = await bought.buy(images)
        counts = bought.counts
    assert np.array_equal(got.images, images)
    assert got.labels.tolist() == [n % 7 for n in range(60)]
    assert got.scores.shape == (60, 8)
    assert np.allclose(got.scores[3, [3, 7]], [0.75, 0.25])
    assert np.isnan(got.scores[3, [0, 1, 2, 4, 5, 6]]).all()
    assert got.weights.tolist() == [1.0] * 60
    assert endpoint.most == 5
    assert told == list(range(1, 61))
    assert (counts.queries_answered, counts.queries_sent, counts.uncertain, counts.bad_images) == (60, 60, 0, 0)
    assert counts.bytes_sent == sum(len(request.body) for request in endpoint.requests)
    assert counts.bytes_received > 60 * 100


async def test_labels_only(serve: Serve, tmp_path: Path) -> None:
    """An endpoint that tells labels only leaves all scores untold."""
    async with buyer(serve(Endpoint(lambda pixel: answer((f"class {pixel % 3}", pixel % 3, None)))), tmp_path) as bought:
        got = await bought.buy(pictures(6))
    assert got.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert got.scores.shape == (6, 3)
    assert np.isnan(got.scores).all()
    assert got.targets()[4].tolist() == [0, 1, 0]


async def test_budget_is_exact(serve: Serve, tmp_path: Path) -> None:
    """The budget is spent to the last image, in order, and not over; what was bought costs nothing again."""
    endpoint = Endpoint()
    async with buyer(serve(endpoint), tmp_path, budget=50, concurrency=7) as bought:
        assert (bought.left, len(await bought.buy(pictures(30))), bought.left) == (50, 30, 20)
        got = await bought.buy(pictures(90))
        assert len(got) == 50
        assert bought.left == 0
        assert len(await bought.buy(pictures(90)[40:])) == 10
        assert len(await bought.buy(pictures(90)[60:])) == 0
    assert sorted(endpoint.asked) == list(range(50))


async def test_duplicates_are_bought_once(serve: Serve, tmp_path: Path) -> None:
    """The same pixels within a call are one purchase, under way or done, and every row has the answer."""
    endpoint = Endpoint()
    images = pictures(10)[np.r_[0, 0, 1:10, 3, 3]]
    async with buyer(serve(endpoint), tmp_path, budget=10) as bought:
        got = await bought.buy(images)
        assert bought.left == 0
    assert got.labels.tolist() == [0, 0, *range(1, 10), 3, 3]
    assert sorted(endpoint.asked) == list(range(10))


async def test_bad_images_cost_nothing(serve: Serve, tmp_path: Path) -> None:
    """An image that isn't taken has weight 0 and leaves its place in the budget to the next; it is not tried again."""
    endpoint = Endpoint(lambda pixel: problem(422, "Not an image") if pixel % 4 == 0 else answer(("cat", 3, 1.0)))
    url = serve(endpoint)
    for _ in range(2):
        async with buyer(url, tmp_path, budget=30, concurrency=6) as bought:
            got = await bought.buy(pictures(200))
            assert (bought.left, bought.counts.bad_images, bought.counts.queries_answered) == (0, len(got) - 30, 30)
            assert got.weights.tolist() == [float(n % 4 != 0) for n in range(len(got))]
    assert len(got) >= 40
    assert sorted(endpoint.asked) == list(range(len(got)))


async def test_no_image_is_taken(serve: Serve, tmp_path: Path) -> None:
    """A hundred images in a row that aren't taken end the purchase, however many are left; fewer than that don't."""
    endpoint = Endpoint(lambda pixel: answer(("cat", 3, 1.0)) if pixel == 60 else problem(422, "Only TIFF"))
    async with buyer(serve(endpoint), tmp_path, concurrency=1) as bought:
        with pytest.raises(BadImage, match="Only TIFF"):
            await bought.buy(pictures(200))
    assert sorted(endpoint.asked) == list(range(161))


async def test_garbled_answers(serve: Serve, tmp_path: Path) -> None:
    """One answer that can't be read costs its row; ten in a row end the purchase."""
    async with buyer(serve(Endpoint(lambda pixel: answer(("cat", 3, 1.0)) if pixel != 2 else Response(b"<html>"))), tmp_path) as bought:
        got = await bought.buy(pictures(5))
        assert got.weights.tolist() == [1, 1, 0, 1, 1]
    endpoint = Endpoint(lambda pixel: Response(b"<html>"))  # noqa: ARG005
    async with buyer(serve(endpoint), tmp_path / "other", concurrency=1) as bought:
        with pytest.raises(Garbled):
            await bought.buy(pictures(20))
    assert len(endpoint.asked) == 10


async def test_refusal_keeps_what_was_under_way(serve: Serve, tmp_path: Path) -> None:
    """After a 403 the answers under way are kept, and going on asks about the others only."""
    suspended = True
    endpoint = Endpoint(lambda pixel: problem(403, "Suspended") if suspended and pixel == 20 else answer(("cat", 3, 1.0)))
    url, images = serve(endpoint), pictures(60)
    async with buyer(url, tmp_path, concurrency=8) as bought:
        with pytest.raises(Refused, match="Suspended"):
            await bought.buy(images)
        before = bought.counts
    assert before.queries_answered == len(endpoint.asked) - 1 < 40
    assert before.uncertain == 0
    suspended = False
    async with buyer(url, tmp_path, concurrency=8) as bought:
        got = await bought.buy(images)
        assert bought.counts.queries_answered == 60
    assert len(got) == 60
    assert sorted(endpoint.asked) == sorted([*range(60), 20])


async def test_busy_endpoint(serve: Serve, tmp_path: Path) -> None:
    """A 503 is waited out and told: as a refusal, a repeated request and seconds of waiting, but one answer."""
    seen: set[int] = set()

    def reply(pixel: int) -> Response:
        if pixel % 5 or pixel in seen:
            return answer(("cat", 3, 1.0))
        seen.add(pixel)
        return problem(503, "Busy", Retry_After="0")

    async with buyer(serve(Endpoint(reply)), tmp_path) as bought:
        assert (await bought.buy(pictures(20))).weights.sum() == 20
        counts = bought.counts
    assert (counts.queries_answered, counts.queries_sent, counts.refused, counts.uncertain) == (20, 24, 4, 0)
    assert counts.seconds_waiting > 0


async def test_unreachable_is_uncertain(tmp_path: Path) -> None:
    """Queries that nobody answered are told as uncertain: the endpoint may have counted them."""
    async with buyer("http://127.0.0.1:9", tmp_path, concurrency=3) as bought:
        with pytest.raises(Unreachable):
            await bought.buy(pictures(10))
        assert (bought.counts.uncertain, bought.counts.queries_sent) == (3, 6)
        assert bought.left == 1000


async def test_resumed_campaign_sees_the_same_budget(serve: Serve, tmp_path: Path) -> None:
    """A second process that asks the same again sees the same `left` and the same answers at each step, and sends only what is new."""
    endpoint = Endpoint()
    url = serve(endpoint)
    steps = []
    for upto in (2, 4):
        async with buyer(url, tmp_path, budget=70) as bought:
            run = []
            for step in range(upto):
                got = await bought.buy(pictures(200)[step * 20 : step * 20 + 20])
                run.append((len(got), bought.left, got.labels.tolist(), got.classes))
            steps.append(run)
    assert steps[0] == steps[1][:2]
    assert [row[:2] for row in steps[1]] == [(20, 50), (20, 30), (20, 10), (10, 0)]
    assert sorted(endpoint.asked) == list(range(70))


async def test_other_images_after_a_resume_do_not_raise_the_budget(serve: Serve, tmp_path: Path) -> None:
    """What an earlier process spent on other images is spent."""
    endpoint = Endpoint()
    url = serve(endpoint)
    async with buyer(url, tmp_path, budget=20) as bought:
        await bought.buy(pictures(20))
    async with buyer(url, tmp_path, budget=20) as bought:
        assert len(await bought.buy(pictures(30, seed=1))) == 0
        assert bought.left == 0
    assert len(endpoint.asked) == 20


async def test_purposes_are_counted_apart(serve: Serve, tmp_path: Path) -> None:
    """Evaluation has its own budget; what was bought for it is free for the attack."""
    endpoint = Endpoint()
    url = serve(endpoint)
    async with buyer(url, tmp_path, budget=10, purpose="evaluation") as bought:
        await bought.buy(pictures(10))
    async with buyer(url, tmp_path, budget=5) as bought:
        assert len(await bought.buy(pictures(15))) == 15
        assert (bought.left, bought.counts.queries_answered) == (0, 5)
    assert len(endpoint.asked) == 15


async def test_every_identity_asks_as_itself(serve: Serve, tmp_path: Path) -> None:
    """Rows go out under the key they were given to, and the bound holds over all identities together."""
    endpoint = Endpoint()
    url = serve(endpoint)
    who = identities(3, url=url, api_keys=["a", "b", "c"])
    rows = np.arange(30) % 3
    async with buyer(url, tmp_path, who=who, concurrency=4) as bought:
        assert bought.identities == 3
        await bought.buy(pictures(30), identities=rows)
    keys = {pixel: request.headers["authorization"] for pixel, request in zip(endpoint.asked, endpoint.requests, strict=True)}
    assert keys == {n: f"Bearer {'abc'[n % 3]}" for n in range(30)}
    assert endpoint.most == 4


async def test_the_others_go_on_for_an_identity_that_is_refused(serve: Serve, tmp_path: Path) -> None:
    """Clients that are suspended one by one leave their images to the next: all is bought once, and the call ends with the last of them."""
    lasts = {"a": 5, "b": 0, "c": 100}  # images until a client is suspended

    async def handler(request: Request) -> Response:
        key = request.headers["authorization"].removeprefix("Bearer ")
        if not lasts[key]:
            return problem(403, "Suspended")
        lasts[key] -= 1
        return await endpoint(request)

    endpoint = Endpoint()
    url, images = serve(handler), pictures(60)
    who = identities(3, url=url, api_keys=["a", "b", "c"])
    async with buyer(url, tmp_path, who=who, concurrency=4, budget=60) as bought:
        got = await bought.buy(images[:40], identities=np.arange(40) % 3)
        assert got.labels.tolist() == [n % 10 for n in range(40)]
        assert (bought.left, bought.counts.queries_answered, bought.counts.uncertain) == (20, 40, 0)
        assert sorted(endpoint.asked) == list(range(40))
        assert {request.headers["authorization"] for request in endpoint.requests[-10:]} == {"Bearer c"}
        sent = bought.counts.queries_sent
        assert 42 <= sent <= 48, "a suspended client is asked no more, but for what is under way"
        lasts["c"] = 0
        with pytest.raises(Refused, match="Suspended"):
            await bought.buy(images, identities=np.arange(60) % 3)
        assert bought.counts.queries_sent <= sent + 4
        lasts["b"] = 100
        assert len(await bought.buy(images, identities=np.arange(60) % 3)) == 60
    assert sorted(endpoint.asked) == list(range(60))


async def test_an_intent_outlives_the_process_before_it_is_sent(serve: Serve, tmp_path: Path) -> None:
    """Whenever the endpoint is asked about an image, another reader of the ledger's file sees that it was to be."""
    seen: list[str | None] = []

    async def handler(request: Request) -> Response:
        # A copy of the files is what kill -9 would leave: the buyer keeps the ledger itself to its process.
        copy = tmp_path / f"copy-{len(seen)}"
        shutil.copytree(tmp_path / "ledger", copy)
        with closing(sqlite3.connect(copy / "ledger.sqlite")) as database:
            row = database.execute("SELECT state FROM queries WHERE digest = ?", (sha256(request.body).digest(),)).fetchone()
        seen.append(row[0] if row else None)
        return answer(("cat", 3, 1.0))

    async with buyer(serve(handler), tmp_path / "ledger", concurrency=4) as bought:
        await bought.buy(pictures(12))
    assert seen == ["intent"] * 12


async def test_answers_outlive_the_process_before_they_are_used(serve: Serve, tmp_path: Path) -> None:
    """What a purchase gives back is in the ledger's file."""
    async with buyer(serve(Endpoint()), tmp_path / "ledger", concurrency=4) as bought:
        await bought.buy(pictures(12))
        shutil.copytree(tmp_path / "ledger", tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy" / "ledger.sqlite")) as database:
        assert database.execute("SELECT state, count(*) FROM queries GROUP BY state").fetchall() == [("answered", 12)]


async def test_no_images(serve: Serve, tmp_path: Path) -> None:
    """Nothing asked, nothing bought."""
    async with buyer(serve(Endpoint()), tmp_path) as bought:
        assert len(await bought.buy(pictures(0))) == 0
