"""What can go wrong with a request, each error with the status it is answered with.

ProblemError
├── BadSyntaxError         400  the body is not what its content type says
├── UnauthorizedError      401  no key where one is needed, or one that opens nothing
├── SuspendedError         403  the key's account is suspended
├── NotFoundError          404  no such model
├── TimedOutError          408  the body did not arrive in time
├── TooLargeError          413  more bytes than the server reads
├── UnsupportedMediaError  415  a content type that nobody documented
├── UndecodableError       422  not an image that the server decodes, or too many pixels
├── QuotaExceededError     429  more queries than the client may ask; Retry-After says when to come back
├── FailedError            500  a step failed: the query is not answered
└── OverloadedError        503  more queries than the server answers in time; Retry-After says when to come back

The texts are neutral: none names a defence.
"""

from collections.abc import Mapping
from http import HTTPStatus


class ProblemError(Exception):
    """A request that gets an `application/problem+json` answer (RFC 9457); the message becomes its `detail`."""

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    outcome: str = "invalid"  # a label of cloneguard_queries_total


class BadSyntaxError(ProblemError):
    """Raised while a body is taken apart."""

    status = HTTPStatus.BAD_REQUEST


class UnauthorizedError(ProblemError):
    """Raised while it is made out who asks; the text is the same whatever is wrong with a key."""

    status = HTTPStatus.UNAUTHORIZED
    outcome = "unauthorized"

    def __init__(self) -> None:
        super().__init__("A valid key is needed: Authorization: Bearer KEY, or X-API-Key: KEY.")


class SuspendedError(ProblemError):
    """Raised for a valid key of an account that is suspended."""

    status = HTTPStatus.FORBIDDEN
    outcome = "forbidden"

    def __init__(self) -> None:
        super().__init__("This account is suspended.")


class NotFoundError(ProblemError):
    """Raised when a path names a model that is not served."""

    status = HTTPStatus.NOT_FOUND


class TimedOutError(ProblemError):
    """Raised when the client went away or stalled before its body was complete."""

    status = HTTPStatus.REQUEST_TIMEOUT


class TooLargeError(ProblemError):
    """Raised before or while a body is read, as soon as it is known to exceed the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaError(ProblemError):
    """Raised for a content type other than the documented ones."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class UndecodableError(ProblemError):
    """Raised by the decoder."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class QuotaExceededError(ProblemError):
    """Raised before the model works; `seconds` from now enough queries may be asked again."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    outcome = "quota"

    def __init__(self, *, seconds: int, headers: Mapping[str, str]) -> None:
        super().__init__("The quota is used up; Retry-After says when to come back.")
        self.seconds, self.headers = seconds, headers


class FailedError(ProblemError):
    """Raised for every query of a micro-batch in which a step failed: fail closed."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    outcome = "failed"


class OverloadedError(ProblemError):
    """Raised when the queue is full or a deadline has passed; `reason` is a label of cloneguard_shed_total."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    outcome = "shed"

    def __init__(self, reason: str) -> None:
        super().__init__("The service is busy; try again shortly.")
        self.reason = reason
