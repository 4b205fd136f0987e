"""Ask a running service for one image at a time, and see what it says and how long it takes."""

import http.client
import json
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answered:
    """The best label of an answer, and the seconds from the request's first byte to the answer's last."""

    label: str
    seconds: float


class Client:
    """One kept-alive connection with one request under way at most, which is as little client as there can be in a latency."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)

    def ask(self, body: bytes) -> Answered:
        """Post an encoded image. Raises RuntimeError for any status but 200: a refusal is no answer to count."""
        start = time.perf_counter()
        self._connection.request("POST", "/predict", body, {"Content-Type": media_type(body)})
        response = self._connection.getresponse()
        text = response.read()
        seconds = time.perf_counter() - start
        if response.status != 200:
            raise RuntimeError(f"POST /predict was answered {response.status}: {text[:200]!r}")
        return Answered(str(json.loads(text)["predictions"][0]["label"]), seconds)

    def __enter__(self) -> Self:
        self._connection.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()


def media_type(body: bytes) -> str:
    """What a body says it is."""
    return "image/png" if body.startswith(b"\x89PNG") else "image/jpeg"
