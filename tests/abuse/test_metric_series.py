"""A8: nobody can fill the metrics with series."""

import random
import string
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from tests.abuse import FULL
from tests.abuse.images import encode, picture
from tests.server import RunningServer

COUNT = 10_000 if FULL else 600


@pytest.mark.abuse
def test_random_paths_keys_and_request_ids_make_no_series(start: Callable[..., RunningServer], figure: Callable[..., None]) -> None:
    """Requests under ever new paths, keys, request ids and addresses add at most 50 series, and none carries their text.

    Of a quarter, which are queries, every third has no key and is answered, as a client that nobody has seen before.
    """
    server = start("--set", "server.trusted_proxies=127.0.0.1")
    draw = random.Random(8)
    image = encode(picture(8), "JPEG")

    def word() -> str:
        return "abuse" + "".join(draw.choices(string.ascii_letters + string.digits, k=16))

    httpx.post(f"{server.url}/predict", content=image, headers={"Content-Type": "image/jpeg"}).raise_for_status()
    before = server.samples().keys()  # with the series that any first query makes
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for number in range(COUNT):
            address = ".".join(str(draw.randrange(1, 255)) for _ in range(4))
            headers = {"X-Request-Id": word(), "X-Forwarded-For": f"{word()}, {address}", "Content-Type": "image/jpeg"}
            keys = {"X-API-Key": word(), "Authorization": f"Bearer {word()}"}
            if number % 4:
                path = draw.choice(("/{}", "/predict/{}", "/v2/models/{}", "/v2/models/{}/infer", "/admin/v1/{}")).format(word())
                statuses[client.request(draw.choice(("GET", "POST", "PUT")), path, headers=headers | keys).status_code] += 1
            else:
                sent = draw.choice(({}, dict([draw.choice(list(keys.items()))]), keys))
                statuses[client.post("/predict", content=image, headers=headers | sent).status_code] += 1
    assert max(statuses) < 500
    assert statuses[200] > COUNT / 20
    assert statuses[401] > COUNT / 20
    new = server.samples().keys() - before
    assert len(new) <= 50
    figure(f"{COUNT:,} requests, {statuses[200]:,} of them answered; {len(new)} new series")
    assert not [series for series in new if "abuse" in str(series)]
