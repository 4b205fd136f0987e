"""Near-duplicates asked at once, at several replicas, by several accounts: who is told what?"""

import http.client
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import orjson

from tests.abuse.audit import records_by_request
from tests.abuse.images import near_duplicate
from tests.accounts import ask, new_account, until
from tests.server import RunningServer

VARIANTS = 5


@dataclass(frozen=True, slots=True)
class Told:
    """The id of an answer, and what it says: label and score of each entry, best first."""

    id: str
    entries: tuple[tuple[str, float | None], ...]

    @property
    def label(self) -> str:
        """The best one."""
        return self.entries[0][0]


def accounts(replicas: Sequence[RunningServer], count: int, *, store: str) -> list[str]:
    """Keys of new accounts, once every replica knows the last of them."""
    keys = [new_account(replicas[0].state, f"racer-{number}", store=store) for number in range(count)]
    for replica in replicas:
        until(partial(ask, replica, keys[-1]), 200)
    return keys


def asked(server: RunningServer, images: Iterable[bytes], *, key: str | None = None, start: threading.Barrier | None = None) -> list[Told]:
    """Ask one image after the other over one connection, each when everybody who shares the barrier is ready to."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "image/jpeg"} | ({"Authorization": f"Bearer {key}"} if key else {})
    told = []
    try:
        for image in images:
            if start is not None:
                start.wait(60)
            connection.request("POST", "/predict", image, headers)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            document = orjson.loads(body)
            told.append(Told(document["id"], tuple((entry["label"], entry.get("score")) for entry in document["predictions"])))
    except BaseException:
        if start is not None:
            start.abort()
        raise
    finally:
        connection.close()
    return told


def raced(replicas: Sequence[RunningServer], keys: Sequence[str | None], *, groups: int) -> list[list[Told]]:
    """For each group of near-duplicates what was told: every variant at every replica at the same time, each by an account of its own."""
    racers = [(variant, replica) for variant in range(VARIANTS) for replica in replicas]
    start = threading.Barrier(len(racers))
    with ThreadPoolExecutor(len(racers)) as pool:
        threads = [
            pool.submit(asked, replica, (near_duplicate(seed, variant) for seed in range(groups)), key=key, start=start)
            for (variant, replica), key in zip(racers, keys, strict=True)
        ]
        return [list(group) for group in zip(*(thread.result() for thread in threads), strict=True)]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the audit log says about each group: whether all its queries were in one neighbourhood and had one fate, and which."""

    disagreements: list[int]
    altered: list[bool]


def agreement(server: RunningServer, told: Sequence[Sequence[Told]]) -> Agreement:
    """Look up every answer in the log that the replicas share."""
    log = records_by_request(server)
    disagreements, altered = [], []
    for seed, group in enumerate(told):
        fates = Counter((log[one.id]["neighbourhood"], log[one.id]["action"]) for one in group)
        if len(fates) > 1:
            disagreements.append(seed)
        altered.append(fates.most_common(1)[0][0][1] == "misrecognized")
    return Agreement(disagreements, altered)


def majority(labels: Iterable[str]) -> str:
    """The label that most say; of equally many, the first in the alphabet."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))
