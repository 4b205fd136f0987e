"""One neighbourhood, one answer: across repeats, clients, restarts and crashes."""

from collections.abc import Callable

import httpx

from tests.pictures import jpeg, ship, smooth_noise
from tests.server import RunningServer

ALTER_MANY = (
    "--profile", "open", "--set", "misrecognition.mode=enforce", "--set", "misrecognition.rate=0.3",
    "--set", "near_duplicates.mode=enforce", "--set", "near_duplicates.embedding_radius=0",
)  # fmt: skip


def predictions(server: RunningServer, image: bytes, client: httpx.Client | None = None) -> object:
    answer = (client or httpx).post(f"{server.url}/predict", content=image, headers={"content-type": "image/jpeg"}, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def from_address(address: str) -> httpx.Client:
    """A client that comes from another loopback address."""
    return httpx.Client(transport=httpx.HTTPTransport(local_address=address))


def test_the_same_image_always_gets_the_same_answer(start: Callable[..., RunningServer]) -> None:
    """50 times in a row, from other addresses, after a restart and after kill -9: under balanced, known and foreign images alike."""
    server = start("--profile", "balanced")
    images = [jpeg(ship(seed=7)), *(jpeg(smooth_noise(seed=seed)) for seed in range(5))]
    first = [predictions(server, image) for image in images]
    with httpx.Client() as client:
        assert all(predictions(server, images[0], client) == first[0] for _ in range(50))
    for address in ("127.0.0.2", "127.0.0.3"):
        with from_address(address) as client:
            assert [predictions(server, image, client) for image in images] == first
    server.restart()
    assert [predictions(server, image) for image in images] == first
    server.kill()
    server.restart()
    assert [predictions(server, image) for image in images] == first
    assert server.metric("cloneguard_store_neighbourhoods") == len(images)


def test_the_stated_share_of_images_is_altered_and_near_duplicates_share_their_fate(start: Callable[..., RunningServer]) -> None:
    """Rate 0.3: 30% +- 6 of 600 distinct images get another label than under open, and recompressed copies get their original's."""
    honest, altering = start("--profile", "open"), start(*ALTER_MANY)
    pictures = [smooth_noise(seed=seed, cells=12) for seed in range(600)]
    top: list[list[str]] = []
    with httpx.Client(timeout=10) as client:
        for server, quality in ((honest, 90), (altering, 90), (honest, 60), (altering, 60)):
            answers = [predictions(server, jpeg(picture, quality=quality), client) for picture in pictures]
            top.append([answer[0]["label"] for answer in answers])  # type: ignore[index]
    altered = sum(before != after for before, after in zip(top[0], top[1], strict=True)) / len(pictures)
    assert abs(altered - 0.3) < 0.06
    # a copy may honestly get another label: only copies that do not are asked about
    same = [(copy == original) for h, c, original, copy in zip(*(top[i] for i in (0, 2, 1, 3)), strict=True) if h == c]
    assert len(same) > 400
    assert sum(same) / len(same) >= 0.98
