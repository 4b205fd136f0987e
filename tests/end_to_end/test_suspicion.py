"""A thief's record follows him, and nobody else."""

from collections.abc import Callable
from itertools import chain

import httpx

from tests.pictures import jpeg, ship, smooth_noise
from tests.server import RunningServer

EVERY_PICTURE_ITS_OWN = ("--set", "near_duplicates.embedding_radius=0", "--set", "near_duplicates.perceptual_radius=0")


def labels(server: RunningServer, images: list[bytes], *, address: str) -> list[str]:
    """What a client at a loopback address is told, one query after the other."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=10) as client:
        answers = [client.post(f"{server.url}/predict", content=image, headers={"content-type": "image/jpeg"}) for image in images]
    return [answer.raise_for_status().json()["predictions"][0]["label"] for answer in answers]


def test_who_sends_mostly_foreign_images_is_told_wrong_about_his_others_too(start: Callable[..., RunningServer]) -> None:
    """After 300 queries, two thirds of them foreign; an honest client is told right about the same pictures, before and after a restart."""
    server = start("--profile", "balanced", *EVERY_PICTURE_ITS_OWN)
    ships = [jpeg(ship(seed=seed, size=64)) for seed in range(150)]
    foreign = [jpeg(smooth_noise(seed=seed)) for seed in range(200)]
    mixed = list(chain.from_iterable((*foreign[2 * n : 2 * n + 2], ships[n]) for n in range(100)))
    assert labels(server, mixed[:30], address="127.0.0.2")[2::3].count("ship") >= 9  # nobody is suspected yet
    labels(server, mixed[30:], address="127.0.0.2")
    told = labels(server, ships[100:], address="127.0.0.2")
    assert told.count("ship") < 35
    assert server.metric("cloneguard_misrecognized_answers_total", reason="suspicion") >= 15
    assert labels(server, ships[100:], address="127.0.0.3").count("ship") >= 48
    server.restart()
    assert labels(server, ships[100:], address="127.0.0.2") == told
    assert labels(server, ships[100:], address="127.0.0.3").count("ship") >= 48


def test_a_filter_in_shadow_makes_nobody_suspicious(start: Callable[..., RunningServer]) -> None:
    """What is only counted has no consequences, in one place or another."""
    server = start("--profile", "balanced", "--set", "ood.mode=shadow", *EVERY_PICTURE_ITS_OWN)
    labels(server, [jpeg(smooth_noise(seed=seed)) for seed in range(120)], address="127.0.0.2")
    assert labels(server, [jpeg(ship(seed=seed, size=64)) for seed in range(60)], address="127.0.0.2").count("ship") >= 57
    assert server.metric("cloneguard_misrecognized_answers_total", reason="suspicion") == 0
