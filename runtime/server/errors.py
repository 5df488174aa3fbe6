"""Failures as answers: JSON in the shape of OpenAI's API, the field as `param`, the sentence as `message`.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

What nobody foresaw is logged with the request's id and answered without a word of the code.
"""

import errno
import logging
from typing import Any

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from limner.runtime.errors import (
    BundleError,
    GraphError,
    InputError,
    LimnerError,
    NonFiniteError,
    ProviderError,
    StoppedError,
)

__all__ = ["Refusal", "as_refusal", "refused"]

logger = logging.getLogger("limner.server")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
STOPPED = {
    "cancelled": (499, "request_cancelled"),
    "deadline": (504, "deadline_exceeded"),
    "end": (503, "shutting_down"),
}


class Refusal(Exception):
    """An answer that is no result."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,  # seconds
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def kind(self) -> str:
        """OpenAI's type."""
        named = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return named.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        """Of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def refused(
    field: str | None, given: object, allowed: str, hint: str = "", *, code: str = "invalid_value", status: int = 400
) -> Refusal:
    """The refusal of a field's value, in the words of an InputError."""
    parts = [f"{field or 'the request'}: got {given}", f"allowed: {allowed}", hint]
    return Refusal(status, "; ".join(part for part in parts if part), field, code)


def as_refusal(error: BaseException, request_id: str = "") -> Refusal:
    """The answer to an exception."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StoppedError):
        status, code = STOPPED[error.reason]
        return Refusal(status, str(error), None, code)
    if _no_room(error):
        logger.error("%s: %s", request_id, str(error).splitlines()[0])
        return Refusal(507, "the server has no room left for the picture or its result", None, "no_room", 60)
    if isinstance(error, SQLAlchemyError):
        logger.error("%s: %s", request_id, str(error).splitlines()[0])
        return Refusal(503, "the database of the jobs does not answer", None, "database_unavailable", 5)
    if isinstance(error, ProviderError | BundleError):  # the server's own, not the client's
        logger.error("%s: %s", request_id, error)
        return Refusal(503, "the bundle cannot be used at the moment", None, "bundle_unavailable", 10)
    if isinstance(error, InputError) and error.field.startswith("LIMNER_"):  # the server's environment, with its paths
        logger.error("%s: %s", request_id, error)
        return Refusal(503, "the server cannot sign or mark pictures at the moment", None, "marks_unavailable", 60)
    if isinstance(error, InputError):
        return Refusal(400, str(error), error.field, "invalid_value")
    if isinstance(error, NonFiniteError):
        return Refusal(422, f"{error}; lower the strengths and scales", None, "not_finite")
    if isinstance(error, GraphError):
        logger.error("%s: %s", request_id, error)
        return Refusal(500, "a graph failed on these inputs", None, "graph_failed")
    if isinstance(error, LimnerError):
        return Refusal(422, str(error), None, "not_possible")
    logger.error("%s: unforeseen", request_id, exc_info=error)
    return Refusal(500, f"something went wrong here; the log has it under {request_id}", None, "internal_error")


def _no_room(error: BaseException) -> bool:
    """Whether a disk is full: said by the system, by whoever wrote a file, or by SQLite."""
    found = [one for one in (error, error.__cause__) if isinstance(one, OSError) and one.errno in NO_ROOM]
    return bool(found) or (isinstance(error, OperationalError) and "full" in str(error.orig))
