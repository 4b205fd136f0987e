"""A8: nobody can fill the metrics with series."""

import random
import string
from collections.abc import Callable

import httpx
import pytest

from tests.abuse import FULL
from tests.abuse.images import encode, picture
from tests.server import RunningServer

COUNT = 10_000 if FULL else 600


@pytest.mark.abuse
def test_random_paths_keys_and_request_ids_make_no_series(server: RunningServer, figure: Callable[..., None]) -> None:
    """Requests under ever new paths, keys and request ids add at most 50 series, and none carries their text."""
    draw = random.Random(8)
    image = encode(picture(8), "JPEG")

    def word() -> str:
        return "abuse" + "".join(draw.choices(string.ascii_letters + string.digits, k=16))

    httpx.post(f"{server.url}/predict", content=image, headers={"Content-Type": "image/jpeg"}).raise_for_status()
    before = server.samples().keys()  # with the series that any first query makes
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for number in range(COUNT):
            headers = {"X-API-Key": word(), "Authorization": f"Bearer {word()}", "X-Request-Id": word(), "X-Forwarded-For": word()}
            if number % 4:
                path = draw.choice(("/{}", "/predict/{}", "/v2/models/{}", "/v2/models/{}/infer", "/admin/v1/{}")).format(word())
                assert client.request(draw.choice(("GET", "POST", "PUT")), path, headers=headers).status_code < 500
            else:
                headers["Content-Type"] = "image/jpeg"
                assert client.post("/predict", content=image, headers=headers).status_code < 500
    new = server.samples().keys() - before
    assert len(new) <= 50
    figure(f"{COUNT:,} requests, {len(new)} new series")
    assert not [series for series in new if "abuse" in str(series)]
