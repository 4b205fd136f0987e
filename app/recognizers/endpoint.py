"""A recognizer behind HTTP, asked politely: one image at a time, no faster than was promised, and waiting where it says so."""

import random
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from app.recognizers.asked import Images, RecognizerError, Told
from app.recognizers.dialects import Dialect, OpenInference, Predict

ATTEMPTS = 6
BACKOFF_SECONDS = 0.5  # the n-th wait is drawn from 0 to this times 2^(n-1)
LONGEST_WAIT_SECONDS = 120.0
TIMEOUT_SECONDS = 30.0
AGAIN = (408, 429, 500, 502, 503, 504)


class Endpoint:
    """A Source over HTTP. The address is a server's, or ends in /predict, or is one of the Open Inference Protocol: .../v2/models/NAME.

    At most `rate` requests a second are sent, one after another. Retry-After is waited out; a broken connection, a 429, 503 and what is as
    good as one are tried `ATTEMPTS` times in all. Raises RecognizerError.
    """

    def __init__(
        self, url: str, *, rate: float, api_key: str | None = None, sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RecognizerError(f"{url} is no http address")
        self._gap, self._sleep, self._monotonic, self._next = 1 / rate, sleep, monotonic, 0.0
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)
        self._dialect: Dialect = Predict()
        if OpenInference.is_spoken_at(parts.path):
            self._url = f"{url.rstrip('/').removesuffix('/infer')}/infer"
            self._dialect = self._told(OpenInference.of, self._ask("GET", self._url.removesuffix("/infer")))
        else:
            self._url = f"{url.rstrip('/').removesuffix('/predict')}/predict"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def __call__(self, images: Images) -> Iterator[Told]:
        """See Source."""
        for image in images:
            yield self._told(self._dialect.read, self._ask("POST", self._url, **self._dialect.request(image)))

    def _told(self, read: Callable[[Any], Any], response: httpx.Response) -> Any:
        try:
            return read(response.json())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise RecognizerError(f"{response.url} answers nothing that we know ({type(error).__name__}: {error})") from error

    def _ask(self, method: str, url: str, **options: Any) -> httpx.Response:
        for attempt in range(1, ATTEMPTS + 1):
            self._wait_for_turn()
            asked_for = 0.0
            try:
                response = self._http.request(method, url, **options)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                failure = f"{url}: {type(error).__name__}: {error}"
            else:
                if response.status_code == httpx.codes.OK:
                    return response
                failure = f"{url} answered {response.status_code} {response.text[:200]!r}"
                if response.status_code not in AGAIN:
                    break
                asked_for = _retry_after(response)
            if asked_for > LONGEST_WAIT_SECONDS:
                failure += f"; come back in {asked_for:.0f} s: the same command goes on then"
                break
            if attempt < ATTEMPTS:
                self._sleep(asked_for + random.uniform(0, BACKOFF_SECONDS * 2 ** (attempt - 1)))  # noqa: S311, no secret
        raise RecognizerError(failure)

    def _wait_for_turn(self) -> None:
        now = self._monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + self._gap


def _retry_after(response: httpx.Response) -> float:
    """Seconds, of a number or a date; 0 where it says nothing that can be read."""
    said = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(said) if said.isdecimal() else parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
