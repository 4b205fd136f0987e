"""The endpoint as a function: an image goes in, the answer comes out, and every query is counted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from random import Random, SystemRandom
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

from attacker_client import open_inference, wire
from attacker_client.connections import Connections
from attacker_client.costs import Tally
from attacker_client.errors import BadImage, Garbled, OracleError, Refused, Unreachable
from attacker_client.http11 import NoAnswer, Response
from attacker_client.wire import Dialect, OracleAnswer

_DENIED = (401, 403)
_WAIT = (429, 503)
_AWAY = (408, 502, 504)  # a proxy before the endpoint, or the way there: as good as a broken connection
_FAILED = 500  # the endpoint's own trouble, perhaps with this image
_BAD_IMAGE = (413, 415, 422)


class Oracle:
    """Ask a prediction endpoint, waiting when it says so.

    The address is the server's own or ends in /predict, or is one of the Open Inference Protocol, http://HOST/v2/models/NAME[/infer], whose
    `dialect` is found out on entering unless it is given. `headers` go with every query, `local_address` is the source address: both
    say who asks.

    A 429, a 503, a broken connection and what is as good as one (408, 500, 502, 504) are tried again, `attempts` times in all. The n-th
    wait is drawn evenly from 0 to `backoff` * 2^(n-1) seconds ("full jitter", so that waiting clients don't come back together), and comes
    on top of what Retry-After asked for. A wait over `longest_wait` seconds isn't begun: the query is Refused at once.

    `total` counts requests including repeated ones, the answers that came, and what they cost.
    """

    def __init__(
        self,
        url: str,
        *,
        dialect: Dialect | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        local_address: str | None = None,
        attempts: int = 5,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        assert attempts >= 1
        self.url = dialect.url if dialect else open_inference.endpoint_url(url)
        self.total = Tally()
        self._dialect = dialect or (None if open_inference.is_spoken_at(url) else wire.Predict(self.url))
        self._attempts = attempts
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._random = random or SystemRandom()
        self._headers = {**({"Authorization": f"Bearer {api_key}"} if api_key else {}), **(headers or {})}
        # What is the same in every request is written once.
        self._head = _head(self.url, self._headers)
        self._connections = Connections(self.url, local_address=local_address, timeout=timeout)

    @property
    def queries_sent(self) -> int:
        """Requests, repeated ones included."""
        return self.total.sent

    @property
    def queries_answered(self) -> int:
        """Answers that came."""
        return self.total.answered

    async def __aenter__(self) -> Self:
        for attempt in range(1, self._attempts + 1):
            try:
                self._dialect = self._dialect or await open_inference.discover(self.url, headers=self._headers, timeout=self._timeout)
                break
            except (Unreachable, Refused) as error:
                asked_for = (error.retry_after or 0.0) if isinstance(error, Refused) else 0.0
                denied = isinstance(error, Refused) and error.status in _DENIED
                if denied or attempt == self._attempts or asked_for > self._longest_wait:
                    raise
            await self._sleep(self._wait(asked_for, attempt))
        return self

    @property
    def dialect(self) -> Dialect:
        """How the endpoint is spoken to, once the oracle was entered; other oracles of the same endpoint need not find out again."""
        assert self._dialect is not None, "enter the oracle first: async with Oracle(...)"
        return self._dialect

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._connections.__aexit__(kind, error, trace)

    async def ask(self, image: bytes, *, media_type: str | None = None, tally: Tally | None = None) -> OracleAnswer:
        """Buy the answer to one image file; without `media_type` its first bytes tell it. Raises OracleError.

        A fresh `tally` is told what this query cost, whether it was answered or not.
        """
        cost = Tally() if tally is None else tally
        try:
            body, content_type = self.dialect.request(image, media_type=media_type)
        except ValueError as error:
            raise BadImage(str(error), status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE) from error
        request = b"%bContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, content_type.encode(), len(body), body)
        try:
            answer = self._read(await self._send(request, len(body), cost))
            cost.answered += 1
            return answer
        finally:
            self.total.add(cost)

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

    async def _send(self, request: bytes, body_bytes: int, cost: Tally) -> Response:
        """The response, of whatever status that isn't tried again, after as many attempts as it took."""
        for attempt in range(1, self._attempts + 1):
            cost.sent += 1
            cost.bytes_sent += body_bytes
            try:
                response = await self._connections.post(request)
            except NoAnswer as error:
                failure: Unreachable | Refused | Garbled = Unreachable(f"{self.url}: {error}")
                failure.__cause__ = error
                asked_for = 0.0
            else:
                cost.bytes_received += len(response.body)
                if response.status in _AWAY:
                    failure, asked_for = Unreachable(self._told(response)), 0.0
                elif response.status == _FAILED:
                    failure, asked_for = Garbled(self._told(response)), 0.0
                elif response.status in _WAIT:
                    cost.refused += 1
                    failure = self._refused(response)
                    asked_for = failure.retry_after or 0.0
                else:
                    return response
            if attempt == self._attempts or asked_for > self._longest_wait:
                break
            wait = self._wait(asked_for, attempt)
            cost.seconds_waiting += wait
            await self._sleep(wait)
        raise failure

    def _wait(self, asked_for: float, attempt: int) -> float:
        return asked_for + self._random.uniform(0, self._backoff * 2 ** (attempt - 1))

    def _read(self, response: Response) -> OracleAnswer:
        status = response.status
        if status == HTTPStatus.OK:
            try:
                return self.dialect.read(response.body)
            except ValueError as error:
                raise Garbled(f"{self.url}: {error}") from error
        if status in _DENIED:
            raise self._refused(response)
        if status in _BAD_IMAGE:
            raise BadImage(self._told(response), status=status)
        raise Garbled(self._told(response))

    def _refused(self, response: Response) -> Refused:
        wait = wire.read_retry_after(response.header(b"retry-after"), now=self._clock())
        return Refused(self._told(response), status=response.status, retry_after=wait)

    def _told(self, response: Response) -> str:
        """The error in words: the status and what the endpoint says about it."""
        return f"{self.url} answered {response.status} ({wire.read_problem(response.body) or response.reason.decode('latin-1')})"


def _head(url: str, headers: Mapping[str, str]) -> bytes:
    """What begins every request. No coding is offered, so that bodies come as they are. Raises ValueError for a header of several lines."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    every = {"Host": host, "Accept": "application/json", "User-Agent": "attacker-client", **headers}
    lines = [f"POST {quote(parts.path, safe='/%:@!$&()*+,;=~')} HTTP/1.1", *(f"{name}: {value}" for name, value in every.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header is one line: there is a line break in a key, or in the address")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
