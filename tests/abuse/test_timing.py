"""A9: what the time and the form of an answer tell."""

import http.client
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import orjson
import pytest
from scipy.stats import mannwhitneyu  # type: ignore[import-untyped]  # ships no types

from tests.abuse import FULL
from tests.abuse.audit import records_by_request
from tests.abuse.images import near_duplicate
from tests.server import RunningServer

EACH = 2000 if FULL else 60
# Half of all neighbourhoods are altered, whatever they show, so that what is altered differs in nothing else.
OPTIONS = ("--set", "misrecognition.rate=0.5", "--set", "ood.mode=shadow", "--set", "suspicion.mode=shadow")


@dataclass(frozen=True, slots=True)
class Told:
    """One answer as its client sees it: its id, the seconds it took, and its form."""

    id: str
    seconds: float
    form: tuple[object, ...]


def ask(connection: http.client.HTTPConnection, image: bytes) -> Told:
    """Ask and take the time."""
    began = time.perf_counter()
    connection.request("POST", "/predict", image, {"Content-Type": "image/jpeg"})
    response = connection.getresponse()
    body = response.read()
    seconds = time.perf_counter() - began
    assert response.status == 200
    document = orjson.loads(body)
    entries = tuple(tuple(sorted(entry)) for entry in document["predictions"])
    return Told(
        document["id"], seconds, (tuple(sorted(name.lower() for name, _ in response.getheaders())), tuple(sorted(document)), entries)
    )


def auc(ones: list[float], others: list[float]) -> float:
    """How well the seconds tell two kinds of answers apart: 0.5 is not at all, 1 is always."""
    area = float(mannwhitneyu(ones, others).statistic) / (len(ones) * len(others))
    return max(area, 1 - area)


@pytest.mark.abuse
def test_time_and_form_tell_nothing(start: Callable[..., RunningServer], figure: Callable[..., None]) -> None:
    """Hits and misses, altered and honest answers: one header set, one body shape; at full length also how far times tell them apart."""
    server = start(*OPTIONS)
    originals = [near_duplicate(seed, 0) for seed in range(EACH)]
    images = [near_duplicate(seed, 1) for seed in range(2 * EACH)]  # the first half are copies, the others new
    random.Random(9).shuffle(images)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for image in originals:
        ask(connection, image)
    told = [ask(connection, image) for image in images]
    connection.close()
    assert len({one.form for one in told}) == 1
    records = records_by_request(server)
    hit = [("near_duplicates" in records[one.id]["findings"]) for one in told]
    altered = [records[one.id]["action"] == "misrecognized" for one in told]
    assert abs(sum(hit) - EACH) <= 0.1 * EACH
    assert 0.3 * len(told) <= sum(altered) <= 0.7 * len(told)

    def measured(name: str, chosen: list[bool]) -> None:
        ones, others = ([one.seconds for one, is_one in zip(told, chosen, strict=True) if is_one is side] for side in (True, False))
        area = auc(ones, others)
        one, other = (1000 * float(np.median(side)) for side in (ones, others))
        figure(f"{name}: AUC {area:.3f} ({len(ones)} and {len(others)}; medians {one:.2f} and {other:.2f} ms)", met=area <= 0.55)

    measured("hits and misses", hit)
    measured("altered and honest", altered)
    figure("one header set, one body shape")
