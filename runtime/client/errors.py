"""What a server says instead of an answer."""

from typing import Any

from limner.runtime.errors import LimnerError

__all__ = ["ServerError", "error_of"]


class ServerError(LimnerError):
    """A server's refusal: `status`, and where it says so the `field` and the `code`; `request_id` is in its log.

    Exit code 2 for what the caller gave, 1 for everything else.
    """

    def __init__(self, message: str, status: int = 0, field: str = "", code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status, self.field, self.code, self.request_id = status, field, code, request_id
        self.exit_code = 2 if 400 <= status < 500 and status not in (408, 429, 499) else 1

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (str(self), self.status, self.field, self.code, self.request_id)


def error_of(status: int, body: Any, request_id: str, where: str) -> ServerError:
    """The error of an answer."""
    found = body.get("error") if isinstance(body, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("message"), str):
        return ServerError(f"{where} answered with status {status} and no word of Limner's", status, "", "", request_id)
    return ServerError(
        found["message"], status, str(found.get("param") or ""), str(found.get("code") or ""), request_id
    )
