"""The endpoint as a function: an image goes in, the answer comes out, and every query is counted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random, SystemRandom
from types import TracebackType
from typing import Self

import httpx

from attacker_client import wire
from attacker_client.errors import BadImage, Garbled, OracleError, Refused, Unreachable
from attacker_client.wire import OracleAnswer

_DENIED = (401, 403)
_WAIT = (429, 503)
_BAD_IMAGE = (413, 415, 422)


class Oracle:
    """Ask a prediction endpoint, waiting when it says so.

    A 429, a 503 and a broken connection are tried again, `attempts` times in all. The n-th wait is drawn evenly from
    0 to `backoff` * 2^(n-1) seconds ("full jitter", so that waiting clients don't come back together), and comes on
    top of what Retry-After asked for. A wait over `longest_wait` seconds isn't begun: the query is Refused at once.

    `queries_sent` counts requests including repeated ones, `queries_answered` the answers that came.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        attempts: int = 5,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        assert attempts >= 1
        self.url = wire.predict_url(url)
        self.queries_sent = 0
        self.queries_answered = 0
        self._attempts = attempts
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._clock = clock
        self._sleep = sleep
        self._random = random or SystemRandom()
        # Loopback is asked directly: a proxy named in the environment would look for it on its own machine.
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            limits=httpx.Limits(max_connections=None),
            timeout=timeout,
            trust_env=not wire.is_loopback(self.url),
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def ask(self, image: bytes, *, media_type: str | None = None) -> OracleAnswer:
        """Buy the answer to one image file; without `media_type` its first bytes tell it. Raises OracleError."""
        headers = {"Content-Type": media_type or wire.media_type_of(image)}
        for attempt in range(1, self._attempts + 1):
            try:
                self.queries_sent += 1
                response = await self._http.post(self.url, content=image, headers=headers)
            except httpx.TransportError as error:
                failure: Unreachable | Refused = Unreachable(f"{self.url}: {type(error).__name__}: {error}")
                failure.__cause__ = error
                asked_for = 0.0
            except httpx.DecodingError as error:
                raise Garbled(f"{self.url}: {error}") from error
            else:
                if response.status_code not in _WAIT:
                    return self._read(response)
                failure = self._refused(response)
                asked_for = failure.retry_after or 0.0
            if attempt == self._attempts or asked_for > self._longest_wait:
                break
            await self._sleep(asked_for + self._random.uniform(0, self._backoff * 2 ** (attempt - 1)))
        raise failure

    async def ask_many(self, images: Sequence[bytes], *, concurrency: int = 8) -> list[OracleAnswer | OracleError]:
        """Buy answers for many images, at most `concurrency` at a time, in the order of the images.

        An image that got none has its error in its place, so that no bought answer is thrown away. After a Refused or
        Unreachable the images not yet sent are given that error without being sent: they would fare no better.
        """
        assert concurrency >= 1
        answers: list[OracleAnswer | OracleError] = []
        answers.extend([Unreachable("not asked")] * len(images))
        rest = iter(range(len(images)))
        end: OracleError | None = None

        async def buy() -> None:
            nonlocal end
            for row in rest:
                try:
                    answers[row] = end or await self.ask(images[row])
                except (Refused, Unreachable) as error:
                    answers[row] = end = error
                except OracleError as error:
                    answers[row] = error

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(images))):
                group.create_task(buy())
        return answers

    def _read(self, response: httpx.Response) -> OracleAnswer:
        status = response.status_code
        if status == httpx.codes.OK:
            try:
                answer = wire.read_answer(response.content)
            except ValueError as error:
                raise Garbled(f"{self.url}: {error}") from error
            self.queries_answered += 1
            return answer
        if status in _DENIED:
            raise self._refused(response)
        if status in _BAD_IMAGE:
            raise BadImage(self._told(response), status=status)
        raise Garbled(self._told(response))

    def _refused(self, response: httpx.Response) -> Refused:
        wait = wire.read_retry_after(response.headers.get("Retry-After"), now=self._clock())
        return Refused(self._told(response), status=response.status_code, retry_after=wait)

    def _told(self, response: httpx.Response) -> str:
        """The error in words: the status and what the endpoint says about it."""
        said = wire.read_problem(response.content) or response.reason_phrase
        return f"{self.url} answered {response.status_code} ({said})"
