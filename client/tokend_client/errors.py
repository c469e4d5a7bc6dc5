"""Every error a user of tokend can meet, one class per code.

Codes cross the wire and the native boundary; classes are what Python code catches. Where a built-in
exception means the same thing it is a base as well, so `except FileNotFoundError` works.

    >>> error = from_code("NOT_FOUND", "a.txt: no such file", "check the path")
    >>> isinstance(error, FileNotFoundError), error.code
    (True, 'NOT_FOUND')
    >>> print(error)
    a.txt: no such file
    hint: check the path
"""

from __future__ import annotations

from typing import ClassVar


class TokendError(Exception):
    """Base of all of tokend's errors.

    Attributes: `code` (stable name), `message` (what and where), `hint` (what to do, or None),
    `retryable` (whether the same request may succeed later), `retry_after_s` (when, if known).
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: bool = False

    def __init__(self, message: str, hint: str | None = None, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class BadRequestError(TokendError, ValueError):
    """A request or option that makes no sense."""

    code = "BAD_REQUEST"


class HelloRequiredError(TokendError):
    """A request before the connection's hello."""

    code = "HELLO_REQUIRED"
    retryable = True


class UnsupportedVersionError(TokendError):
    """Client and daemon share no protocol version."""

    code = "UNSUPPORTED_VERSION"


class UnknownOpError(TokendError):
    """An operation that the daemon does not have."""

    code = "UNKNOWN_OP"


class UnknownJobError(TokendError, LookupError):
    """A job that the daemon does not know (any more)."""

    code = "UNKNOWN_JOB"


class UnauthorizedError(TokendError, PermissionError):
    """A peer that may not use this daemon."""

    code = "UNAUTHORIZED"


class NotFoundError(TokendError, FileNotFoundError):
    """A file or directory that is not there."""

    code = "NOT_FOUND"


class PathDeniedError(TokendError, PermissionError):
    """A path outside the daemon's roots."""

    code = "PATH_DENIED"


class InputChangedError(TokendError):
    """An input that changed while it was read."""

    code = "INPUT_CHANGED"


class InputInvalidError(TokendError, ValueError):
    """An input that is no regular file, not UTF-8, or damaged."""

    code = "INPUT_INVALID"


class BadDocumentError(TokendError, ValueError):
    """A line or row that is no document, where these are not to be left out."""

    code = "BAD_DOCUMENT"


class SpecialTokenError(TokendError, ValueError):
    """A special token's text where it is not allowed."""

    code = "SPECIAL_TOKEN"


class NoTokenError(TokendError, ValueError):
    """A byte for which the vocabulary has no token."""

    code = "NO_TOKEN"


class UnknownIdError(TokendError, ValueError):
    """An id that the vocabulary does not have."""

    code = "UNKNOWN_ID"


class TokenizerInvalidError(TokendError, ValueError):
    """A tokenizer that is unknown, broken or not supported."""

    code = "TOKENIZER_INVALID"


class OutputExistsError(TokendError, FileExistsError):
    """An output that exists and was made otherwise."""

    code = "OUTPUT_EXISTS"


class ConflictError(TokendError):
    """An idempotency key that was used for another job."""

    code = "CONFLICT"


class TooLargeError(TokendError, ValueError):
    """A message or text over the limit."""

    code = "TOO_LARGE"


class BusyError(TokendError):
    """Too much waiting already; try again later."""

    code = "BUSY"
    retryable = True


class DeadlineExceededError(TokendError, TimeoutError):
    """No answer within the time given."""

    code = "DEADLINE_EXCEEDED"
    retryable = True


class CancelledError(TokendError):
    """A job that was cancelled."""

    code = "CANCELLED"


class NoSpaceError(TokendError, OSError):
    """A full disk."""

    code = "NO_SPACE"


class IoError(TokendError, OSError):
    """Any other failure of the operating system."""

    code = "IO_ERROR"


class ShuttingDownError(TokendError):
    """A daemon that is stopping and takes no more work."""

    code = "SHUTTING_DOWN"
    retryable = True


class PoisonError(TokendError):
    """A job during which the daemon died twice; it is not run again."""

    code = "POISON"


class InternalError(TokendError):
    """A defect of tokend."""

    code = "INTERNAL"


class NotConnectedError(TokendError, ConnectionError):
    """No daemon answers at the endpoint."""

    code = "NOT_CONNECTED"
    retryable = True


class StreamError(TokendError, ValueError):
    """A token set on disk that is incomplete or not what it says."""

    code = "STREAM_INVALID"


class RetiredError(TokendError, LookupError):
    """Tokens of a stream that were deleted once every run had passed them."""

    code = "RETIRED"


class StarvedError(TokendError, TimeoutError):
    """A stream that is read while it is written, and has not grown for too long."""

    code = "STARVED"
    retryable = True


class StateMismatchError(TokendError, ValueError):
    """A loader's state that belongs to other data or another order."""

    code = "STATE_MISMATCH"


class WorkerDiedError(TokendError, RuntimeError):
    """A loader's worker process that ended before its work did."""

    code = "WORKER_DIED"


_CLASSES: dict[str, type[TokendError]] = {cls.code: cls for cls in TokendError.__subclasses__()}


def from_code(code: str, message: str, hint: str | None = None) -> TokendError:
    """The exception for a code; an unknown code gives a plain `InternalError` that names it."""
    cls = _CLASSES.get(code)
    return cls(message, hint) if cls else InternalError(f"{code}: {message}", hint)
